"""The start of training: residual coefficients under which the choices of the best named policy are likely.

A conditional logit over the candidates of each decision, P(i) ~ exp(-(dear_i + band x rows_i . w) / TEMPERATURE),
fitted by gradient descent with a pull to zero. It gives cma a better first guess than nothing; cma judges by outcomes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shoal.bench.train.space import BAND
from shoal.router.arrays import Floats
from shoal.router.features import FEATURES

TEMPERATURE, PULL, RATE, ROUNDS, BATCH = 0.1, 0.01, 0.2, 60, 256
MOST = 3.0  # of a coefficient: inside of where cma searches
DEAR = FEATURES.index("dear")


def imitate(rows: Sequence[Floats], chosen: Sequence[int], rng: np.random.Generator) -> Floats:
    """One coefficient per feature. Decisions may have any number of candidates."""
    w: Floats = np.zeros(len(FEATURES))
    for _ in range(ROUNDS):
        slope = PULL * w
        for at in rng.integers(len(chosen), size=min(BATCH, len(chosen))):
            here = rows[at]
            steep = here * (1 - np.tanh(here @ w) ** 2)[:, None]
            slope = slope + (steep[chosen[at]] - _chances(here, w) @ steep) * BAND / TEMPERATURE / BATCH
        w = np.clip(w - RATE * slope, -MOST, MOST)
    return w


def _chances(rows: Floats, w: Floats) -> Floats:
    worth = -(rows[:, DEAR] + BAND * np.tanh(rows @ w)) / TEMPERATURE
    weight: Floats = np.exp(worth - worth.max())
    return weight / weight.sum()


def agreement(rows: Sequence[Floats], chosen: Sequence[int], w: Floats) -> float:
    """Share of decisions in which the likeliest is the one that was chosen."""
    return float(np.mean([int(_chances(here, w).argmax()) == one for here, one in zip(rows, chosen, strict=True)]))


__all__ = ["agreement", "imitate"]
