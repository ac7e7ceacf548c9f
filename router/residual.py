"""The learned part of a price: what training adds to the analytic one, at most a set share of it, the same rule for
every instance. Pure.

  residual = price x band x tanh(features . coefficients)

Where a feature lies outside what training saw, by MARGIN of that width, the residual is not asked at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shoal.router.features import FEATURES, features
from shoal.router.snapshot import Floats, Question
from shoal.router.weights import RouterWeights, Seen

MARGIN = 0.25
ANYTHING = Seen(-np.inf, np.inf, 0.0, 1.0)


@dataclass(frozen=True)
class Residual:
    band: float
    coefficients: Floats
    low: Floats
    high: Floats

    @staticmethod
    def of(weights: RouterWeights) -> Residual:
        seen = [weights.seen.get(name, ANYTHING) for name in FEATURES]
        low, high = np.array([one.low for one in seen]), np.array([one.high for one in seen])
        width = np.where(np.isfinite(high - low), high - low, 0.0) * MARGIN
        coefficients = np.array([weights.residual.get(name, 0.0) for name in FEATURES])
        return Residual(weights.band, coefficients, low - width, high + width)

    def ms(self, question: Question, prices_ms: Floats) -> Floats | None:
        """Per candidate; None: out of range."""
        rows = features(question, prices_ms)
        used = self.coefficients != 0
        if ((rows < self.low) | (rows > self.high))[:, used].any():
            return None
        added: Floats = prices_ms * self.band * np.tanh(rows @ self.coefficients)
        return added


__all__ = ["MARGIN", "Residual"]
