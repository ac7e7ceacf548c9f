"""Pickers take the least cost and nothing else, with ties and draws from the given source."""

from collections import Counter
from random import Random

import numpy as np
import pytest

from shoal.router.pickers import least, least_of_two


def test_least_takes_the_cheapest():
    assert least(np.array([3.0, 1.0, 2.0]), Random(0)) == 1


def test_least_spreads_ties_evenly():
    rng = Random(0)
    counts = Counter(least(np.array([1.0, 2.0, 1.0]), rng) for _ in range(1000))
    assert set(counts) == {0, 2}
    assert counts[0] == pytest.approx(500, abs=80)


def test_least_of_two_wins_as_often_as_it_is_drawn():
    rng = Random(0)
    counts = Counter(least_of_two(np.array([1.0, 2.0, 3.0, 4.0]), rng) for _ in range(1200))
    # Of the six pairs, the cheapest is in three, the next wins two, then one, then none.
    assert [counts[n] for n in range(4)] == [pytest.approx(600, abs=80), pytest.approx(400, abs=80), counts[2], 0]
