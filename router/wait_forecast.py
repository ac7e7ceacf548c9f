"""How long a request that comes now will wait for its first token, told from those that waited of late.

Who had n requests ahead and waited w seconds shows that n + 1 are served in w. The best rate that any of them shows is
what the fleet can do; a slower one had other reasons. A depth is judged only by those that had a DEPTH-th of it
ahead: what a lone request shows is a latency, and says nothing about a crowd; and a few are no crowd. So a burst
on an idle fleet is not turned away by mistake, a long prompt's wait is not held against a short one, and a standing
overload is seen as soon as its first wave has been served.
"""

from __future__ import annotations

from collections import deque

WINDOW_S = 10.0
SAMPLES = 512
DEPTH = 4


class WaitForecast:
    """Owns the samples of one queue. Pure: the caller brings the time."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, float]] = deque(maxlen=SAMPLES)

    def started(self, ahead: int, waited_s: float, now_s: float) -> None:
        self._seen.append((now_s, ahead, waited_s))

    def wait_s(self, ahead: int, now_s: float) -> float | None:
        """None: no crowd, or nobody was near so deep of late."""
        if ahead < DEPTH:
            return None
        rates = [
            (n + 1) / max(waited_s, 1e-3)
            for at_s, n, waited_s in self._seen
            if now_s - at_s <= WINDOW_S and DEPTH * (n + 1) >= ahead + 1
        ]
        return (ahead + 1) / max(rates) if rates else None


__all__ = ["DEPTH", "WINDOW_S", "WaitForecast"]
