"""Numbers about numbers: percentiles, spreads and a paired bootstrap. Pure; the random source is an argument.

Percentiles are interpolated linearly, as numpy and `vllm bench serve` do. Of no values at all every number is 0.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Statistic = Callable[[Sequence[float]], float]


def percentile(values: Sequence[float], percent: float) -> float:
    return float(np.percentile(values, percent)) if len(values) else 0.0


def median(values: Sequence[float]) -> float:
    return percentile(values, 50)


def mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0


def deviation(values: Sequence[float]) -> float:
    return float(np.std(values)) if len(values) else 0.0


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with the bounds of its 95 % interval."""

    estimate: float
    low: float
    high: float


def paired_bootstrap(
    ours: Sequence[float],
    theirs: Sequence[float],
    rng: random.Random,
    *,
    statistic: Statistic = median,
    resamples: int = 2000,
) -> Interval:
    """The statistic of the differences ours - theirs. Both of a pair were measured under like conditions."""
    if len(ours) != len(theirs) or not ours:
        raise ValueError(f"pairs: must be two equal, non-empty lists, given {len(ours)} and {len(theirs)} values")
    differences = np.subtract(ours, theirs)
    draws = np.random.default_rng(rng.getrandbits(64)).integers(0, len(differences), size=(resamples, len(differences)))
    estimates = [statistic(differences[draw]) for draw in draws]
    return Interval(statistic(differences), percentile(estimates, 2.5), percentile(estimates, 97.5))


__all__ = ["Interval", "deviation", "mean", "median", "paired_bootstrap", "percentile"]
