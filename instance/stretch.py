"""When the steps of a stretch end: a run of steps that decode the same requests and decide nothing, as `StepModel.skip`
takes them. Pure arithmetic.

Every step reads one more token per request than the one before, so step times rise by a constant: k steps take
k*first + growth*k*(k-1)/2.
"""

from __future__ import annotations

from math import ceil, sqrt
from typing import NamedTuple


class Stretch(NamedTuple):
    """`growth_ms`: by how much each step is longer than the one before."""

    start_s: float
    first_ms: float
    growth_ms: float

    def end_s(self, steps: int) -> float:
        return self.start_s + (steps * self.first_ms + self.growth_ms * (steps * (steps - 1) / 2)) / 1000

    def step_ms(self, step: int) -> float:
        """Of step number `step`, from 0."""
        return self.first_ms + self.growth_ms * step

    def steps_until(self, at_s: float) -> int:
        """How many steps it takes, at least one, until a step ends at `at_s` or later."""
        steps = max(1, ceil(self._steps((at_s - self.start_s) * 1000)))
        while steps > 1 and self.end_s(steps - 1) >= at_s:
            steps -= 1
        while self.end_s(steps) < at_s:
            steps += 1
        return steps

    def _steps(self, ms: float) -> float:
        """The root of k*first + growth*k*(k-1)/2 = ms; what rounding makes of it is mended by the caller."""
        if ms <= 0:
            return 0.0
        linear, square = self.first_ms - self.growth_ms / 2, self.growth_ms / 2
        if square == 0:
            return ms / linear
        return 2 * ms / (linear + sqrt(linear * linear + 4 * square * ms))


__all__ = ["Stretch"]
