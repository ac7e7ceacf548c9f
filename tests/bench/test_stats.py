import random

import pytest

from shoal.bench import stats


def test_percentiles_are_interpolated():
    assert stats.percentile([1, 2, 3, 4], 50) == 2.5
    assert stats.percentile([10, 20], 99) == pytest.approx(19.9)
    assert stats.percentile([], 50) == 0.0


def test_mean_and_deviation():
    assert stats.mean([1, 3]) == 2
    assert stats.deviation([1, 3]) == 1
    assert stats.mean([]) == stats.deviation([]) == 0


def test_bootstrap_sees_a_small_difference_through_large_common_noise():
    rng = random.Random(1)
    noise = [rng.uniform(0, 1000) for _ in range(40)]
    interval = stats.paired_bootstrap([base + 2 + rng.uniform(-1, 1) for base in noise], noise, random.Random(2))
    assert 1 < interval.low <= interval.estimate <= interval.high < 3


def test_bootstrap_of_no_difference_holds_zero():
    rng = random.Random(3)
    interval = stats.paired_bootstrap([rng.gauss(0, 1) for _ in range(60)], [rng.gauss(0, 1) for _ in range(60)], rng)
    assert interval.low < 0 < interval.high


def test_bootstrap_is_the_same_for_the_same_seed():
    values = ([1.0, 5.0, 2.0], [0.0, 1.0, 2.0])
    assert stats.paired_bootstrap(*values, random.Random(4)) == stats.paired_bootstrap(*values, random.Random(4))


def test_bootstrap_refuses_what_is_not_paired():
    with pytest.raises(ValueError, match="2 and 1"):
        stats.paired_bootstrap([1, 2], [1], random.Random(0))
