"""The last step times of one instance, as its load report's `step_ms` has them: their median."""

from __future__ import annotations

from collections import deque

from shoal.instance.stretch import Stretch

RECENT_STEPS = 33  # the stepper's window


class StepWindow:
    __slots__ = ("_recent_ms",)

    def __init__(self) -> None:
        self._recent_ms: deque[float] = deque(maxlen=RECENT_STEPS)

    def add(self, stretch: Stretch, steps: int) -> None:
        """The first `steps` of this stretch were taken."""
        first_ms, growth_ms = stretch.first_ms, stretch.growth_ms
        if steps == 1:
            self._recent_ms.append(first_ms)
        else:
            oldest = max(0, steps - RECENT_STEPS)
            self._recent_ms.extend([first_ms + growth_ms * step for step in range(oldest, steps)])

    def median_ms(self) -> float:
        recent_ms = sorted(self._recent_ms)
        steps = len(recent_ms)
        return (recent_ms[steps // 2] + recent_ms[(steps - 1) // 2]) / 2 if steps else 0.0


__all__ = ["RECENT_STEPS", "StepWindow"]
