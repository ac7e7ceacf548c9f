"""The last step times of one instance, as its load report's `step_ms` has them: their median. Holds runs of steps, not
steps."""

from __future__ import annotations

from collections import deque

from shoal.instance.stretch import Stretch

RECENT_STEPS = 33  # the stepper's window


class StepWindow:
    __slots__ = ("_runs",)

    def __init__(self) -> None:
        self._runs: deque[tuple[Stretch, int]] = deque(maxlen=RECENT_STEPS)

    def add(self, stretch: Stretch, steps: int) -> None:
        """The first `steps` of this stretch were taken."""
        self._runs.append((stretch, steps))

    def median_ms(self) -> float:
        if not self._runs:
            return 0.0
        stretch, steps = self._runs[-1]
        if steps >= RECENT_STEPS:  # they rise evenly
            return stretch.step_ms(steps - 1 - RECENT_STEPS // 2)
        recent_ms: list[float] = []
        for stretch, steps in reversed(self._runs):
            oldest = max(0, steps - (RECENT_STEPS - len(recent_ms)))
            first_ms, growth_ms = stretch.first_ms, stretch.growth_ms
            recent_ms += [first_ms + growth_ms * step for step in range(oldest, steps)]
            if len(recent_ms) == RECENT_STEPS:
                break
        recent_ms.sort()
        return (recent_ms[len(recent_ms) // 2] + recent_ms[(len(recent_ms) - 1) // 2]) / 2


__all__ = ["RECENT_STEPS", "StepWindow"]
