"""Every vector is a legal weights file, and zero is the heuristic."""

import numpy as np
import pytest

from shoal.bench.train.space import SIZE, TERM_NAMES, weights_of
from shoal.router.features import FEATURES
from shoal.router.weights import check_weights


def test_zero_is_the_heuristic():
    weights = weights_of(np.zeros(SIZE))
    assert set(weights.terms.values()) == {1.0} and set(weights.residual.values()) == {0.0}


@pytest.mark.parametrize("seed", range(20))
def test_every_vector_stands_for_weights_that_are_believed(seed):
    check_weights(weights_of(np.random.default_rng(seed).normal(0, 10, SIZE)))


def test_a_price_that_would_fall_with_load_is_brought_to_where_it_does_not():
    vector = np.zeros(SIZE)
    at = len(TERM_NAMES)
    vector[at + FEATURES.index("queue")], vector[at + FEATURES.index("long_batch")] = -1.0, -0.5
    residual = weights_of(vector).residual
    assert residual["queue"] == 0.0
    assert (residual["batch"], residual["long_batch"]) == (2.5, -0.5)  # 0.5 x 5
