"""The virtual clock: what happens when. Owns the one heap of events; whoever wants something to happen later asks it.

Events of the same time happen in the order in which they were asked for, so a run is the same every time.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

Act = Callable[[float, Any], None]


class Events:
    """`now_s` is the time of the event that happens, or of the last one that did."""

    __slots__ = ("_heap", "_serial", "happened", "now_s")

    def __init__(self) -> None:
        self.now_s = 0.0
        self.happened = 0
        self._heap: list[tuple[float, int, Act, Any]] = []
        self._serial = 0

    def at(self, at_s: float, act: Act, argument: Any = None) -> None:
        """`act(at_s, argument)` happens then. What is overtaken by events is the act's own to notice: nothing can be
        taken back here."""
        assert at_s >= self.now_s, f"an event at {at_s} s, asked for at {self.now_s} s"
        self._serial += 1
        heapq.heappush(self._heap, (at_s, self._serial, act, argument))

    def next_s(self) -> float:
        return self._heap[0][0] if self._heap else float("inf")

    def happen(self) -> None:
        """The earliest event happens."""
        self.happened += 1
        self.now_s, _, act, argument = heapq.heappop(self._heap)
        act(self.now_s, argument)


__all__ = ["Act", "Events"]
