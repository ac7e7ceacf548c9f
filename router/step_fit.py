"""The five coefficients of a step's time, kept true online: recursive least squares that slowly forgets.

Where the steps seen do not tell coefficients apart (no prefill for an hour, say), what was known of them stays: old
evidence is forgotten only as long as there is enough of it.
"""

from __future__ import annotations

import numpy as np

from shoal.router.arrays import Floats
from shoal.router.foresight import StepCoefficients

FORGET = 0.999  # a step counts half after 700 more
PRIOR_SPREAD = 100.0  # of the five scaled coefficients, before any evidence


class StepFit:
    """Sole owner of its estimate."""

    def __init__(self, prior: StepCoefficients) -> None:
        self._theta: Floats = np.array([prior.a_ms, prior.b_ms, prior.c_ms, prior.d_ms, prior.e_ms])
        self._scale = np.maximum(np.abs(self._theta), 1e-6)
        self._spread = np.eye(5) * PRIOR_SPREAD

    def observe(
        self, *, prefill_tokens: float, prefill_pairs: float, decodes: float, context_tokens: float, step_ms: float
    ) -> None:
        """One step. `prefill_pairs`: sum over chunks of p*ctx + p*p/2. `context_tokens`: what the decodes read.

        The error is taken relative to the step's time, so that long steps do not drown short ones.
        """
        inputs = np.array([1.0, prefill_tokens, prefill_pairs / 1e6, decodes, context_tokens / 1000])
        scaled = inputs * self._scale / step_ms
        reach = self._spread @ scaled
        gain = reach / (FORGET + scaled @ reach)
        error = 1 - inputs @ self._theta / step_ms
        self._theta = self._theta + gain * error * self._scale
        spread = self._spread - np.outer(gain, reach)
        if np.trace(spread) / FORGET <= 5 * PRIOR_SPREAD:
            spread = spread / FORGET
        self._spread = (spread + spread.T) / 2

    @property
    def coefficients(self) -> StepCoefficients:
        """None below zero: more work never takes less time."""
        return StepCoefficients(*np.maximum(self._theta, 0.0).tolist())


__all__ = ["FORGET", "StepFit"]
