"""How long a request that comes now will wait for its first token, told from those that waited of late.

Who saw n others served and waited w seconds shows that n + 1 are served in w; who left the queue unserved shows
nothing. The rate is what they show together. A depth is judged only by those that saw a DEPTH-th of it served: what a
lone request shows is a latency, and says nothing about a crowd; and a few are no crowd. So a burst on an idle fleet is
not turned away by mistake, and a standing overload is seen as soon as its first wave has been served.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import NamedTuple

WINDOW_S = 10.0
SAMPLES = 4096
DEPTH = 4


class Seen(NamedTuple):
    at_s: float
    served: int
    waited_ms: int


class WaitForecast:
    """Owns the samples of one queue, with their sums by magnitude (a power of two) of what they saw served, so that an
    answer costs the same however many there are. Pure: the caller brings the time.
    """

    def __init__(self) -> None:
        self._seen: deque[Seen] = deque()
        self._served: Counter[int] = Counter()
        self._waited_ms: Counter[int] = Counter()

    def started(self, served: int, waited_s: float, now_s: float) -> None:
        """`served`: first tokens of others while it waited. Call in the order of time."""
        self._add(seen := Seen(now_s, served + 1, max(1, round(1e3 * waited_s))), 1)
        self._seen.append(seen)
        self._forget(now_s)

    def wait_s(self, ahead: int, now_s: float) -> float | None:
        """None: no crowd, or nobody was near so deep of late."""
        self._forget(now_s)
        near = [power for power, served in self._served.items() if served and DEPTH << power > ahead]
        if ahead < DEPTH or not near:
            return None
        return (ahead + 1) * 1e-3 * sum(self._waited_ms[p] for p in near) / sum(self._served[p] for p in near)

    def _forget(self, now_s: float) -> None:
        while self._seen and (now_s - self._seen[0].at_s > WINDOW_S or len(self._seen) > SAMPLES):
            self._add(self._seen.popleft(), -1)

    def _add(self, seen: Seen, sign: int) -> None:
        power = seen.served.bit_length() - 1
        self._served[power] += sign * seen.served
        self._waited_ms[power] += sign * seen.waited_ms


__all__ = ["DEPTH", "WINDOW_S", "WaitForecast"]
