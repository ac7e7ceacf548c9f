"""From total costs to one choice: an index into `totals`, which is not empty. Ties are broken at random, or many
frontends that see the same picture would all send to the same instance."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import numpy as np

from shoal.router.snapshot import Floats

Picker = Callable[[Floats, Random], int]


def least(totals: Floats, rng: Random) -> int:
    best = int(totals.argmin())
    ties = totals == totals[best]
    if np.count_nonzero(ties) <= 1:
        return best
    return int(rng.choice(np.flatnonzero(ties)))


def least_of_two(totals: Floats, rng: Random) -> int:
    """Power of two choices: the better of two drawn without replacement."""
    if len(totals) == 1:
        return 0
    first, second = rng.sample(range(len(totals)), 2)
    return first if totals[first] <= totals[second] else second


__all__ = ["Picker", "least", "least_of_two"]
