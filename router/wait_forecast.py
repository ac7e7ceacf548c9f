"""How long a request that comes now will wait for its first token, told from those that waited of late.

Who had n requests ahead and waited w seconds shows that n + 1 are served in w. The best rate that any of them shows is
what the fleet can do; a slower one had other reasons. A depth is judged only by those that had a DEPTH-th of it
ahead: what a lone request shows is a latency, and says nothing about a crowd; and a few are no crowd. So a burst
on an idle fleet is not turned away by mistake, a long prompt's wait is not held against a short one, and a standing
overload is seen as soon as its first wave has been served.
"""

from __future__ import annotations

from typing import NamedTuple

WINDOW_S = 10.0
SAMPLES = 512
DEPTH = 4


class Seen(NamedTuple):
    at_s: float
    ahead: int
    rate_rps: float


class WaitForecast:
    """Owns the samples of one queue, less those that a later one outdoes in depth and rate: so they are few. Pure: the
    caller brings the time."""

    def __init__(self) -> None:
        self._seen: list[Seen] = []

    def started(self, ahead: int, waited_s: float, now_s: float) -> None:
        """Call in the order of time."""
        rate_rps = (ahead + 1) / max(waited_s, 1e-3)
        kept = [s for s in self._seen if now_s - s.at_s <= WINDOW_S and (s.ahead > ahead or s.rate_rps > rate_rps)]
        self._seen = [*kept[-SAMPLES:], Seen(now_s, ahead, rate_rps)]

    def wait_s(self, ahead: int, now_s: float) -> float | None:
        """None: no crowd, or nobody was near so deep of late."""
        if ahead < DEPTH:
            return None
        near = [s for s in self._seen if DEPTH * (s.ahead + 1) >= ahead + 1 and now_s - s.at_s <= WINDOW_S]
        return (ahead + 1) / max(s.rate_rps for s in near) if near else None


__all__ = ["DEPTH", "WINDOW_S", "WaitForecast"]
