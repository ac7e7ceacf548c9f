"""The vector that training moves, and the weights that it stands for. A factor is exp(x), a coefficient is x; what the
checks of a weights file would refuse is brought back to the nearest bound, so every vector is a legal file. Zero is the
heuristic.
"""

from __future__ import annotations

import numpy as np

from shoal.router.arrays import Floats
from shoal.router.delay import TERMS
from shoal.router.features import FEATURES, LOAD
from shoal.router.weights import (
    LEAST_FACTOR,
    MOST_COEFFICIENT,
    MOST_FACTOR,
    Provenance,
    RouterWeights,
    Seen,
    least_slope,
)

TERM_NAMES = tuple(TERMS)
SIZE = len(TERM_NAMES) + len(FEATURES)
BAND = 0.25


def weights_of(
    vector: Floats, *, version: str = "candidate", seen: dict[str, Seen] | None = None, came: Provenance | None = None
) -> RouterWeights:
    factors, coefficients = np.split(np.asarray(vector, dtype=float), [len(TERM_NAMES)])
    factors = np.clip(np.exp(np.clip(factors, -20, 20)), LEAST_FACTOR, MOST_FACTOR)
    terms = {name: round(float(factor), 6) for name, factor in zip(TERM_NAMES, factors, strict=True)}
    clipped = np.clip(coefficients, -MOST_COEFFICIENT, MOST_COEFFICIENT)
    residual = _legal({name: round(float(one), 6) for name, one in zip(FEATURES, clipped, strict=True)})
    return RouterWeights(version, terms, residual, BAND, seen or {}, came or Provenance())


def _legal(residual: dict[str, float]) -> dict[str, float]:
    """Where the price would fall with load, the load's own coefficient is raised; what that cannot mend is dropped."""
    for load in LOAD:
        short = least_slope(residual, load)
        if short < 0:
            residual[load] = round(min(residual[load] - short, MOST_COEFFICIENT), 6)
        if least_slope(residual, load) < 0:
            residual |= {name: max(one, 0.0) for name, one in residual.items() if name.endswith(f"_{load}")}
            residual[load] = max(residual[load], 0.0)
    return residual


__all__ = ["BAND", "SIZE", "TERM_NAMES", "weights_of"]
