"""How long the steps of this engine take: what is usual, and how long the next one may take at most.

The usual step is a decode; a chunk of a long prompt takes hundreds of times as long, and is no hang. So the guess
counts tokens, and errs to the long side: a false alarm kills a healthy instance, a late one costs seconds.
"""

from __future__ import annotations

from collections import deque
from statistics import median

RECENT_STEPS = 33
MEASURED_TOKENS = 64  # steps of fewer tell the cost of a step, not of its tokens
FALL = 1 / 16  # the cost of a token rises at once and falls by this share a step
UNMEASURED_MS = 5.0  # a token's cost before any step has told it: that of a large model on a slow machine


class StepPace:
    """Owns its two estimates. Pure: it never looks at a clock."""

    def __init__(self) -> None:
        self.recent_ms: deque[float] = deque(maxlen=RECENT_STEPS)
        self.token_ms: float | None = None

    def saw(self, step_ms: float, tokens: int) -> None:
        self.recent_ms.append(step_ms)
        if tokens >= MEASURED_TOKENS:
            seen = step_ms / tokens
            known = seen if self.token_ms is None else self.token_ms
            self.token_ms = max(seen, known + FALL * (seen - known))

    @property
    def usual_ms(self) -> float:
        """Median of the recent steps; 0 before the first."""
        return median(self.recent_ms) if self.recent_ms else 0.0

    def predict_ms(self, tokens: int) -> float:
        """For a step of at most so many tokens."""
        token_ms = UNMEASURED_MS if self.token_ms is None else self.token_ms
        return self.usual_ms + token_ms * tokens


__all__ = ["StepPace"]
