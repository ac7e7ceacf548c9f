"""One more, one less, or nothing: over time, by hand. Bounds 100 and 1000 tokens, patience 5 s, cool-down 20 s."""

import pytest

from shoal.proto.config import ScalingConfig
from shoal.router.scaling import ScaleState, desired_count

RULES = ScalingConfig(
    min_instances=1, max_instances=4, grow_below_tokens=100, shrink_above_tokens=1000, patience_s=5, cooldown_s=20
)


def run(freeness: list[float], count: int, step_s: float = 1.0) -> list[int]:
    state, counts = ScaleState(), []
    for number, value in enumerate(freeness):
        state, count = desired_count(state, value, count, number * step_s, RULES)
        counts.append(count)
    return counts


def test_it_grows_only_after_patience_and_rests_afterwards():
    counts = run([50.0] * 40, count=2)
    assert counts[:5] == [2] * 5 and counts[5] == 3
    assert counts[5:25] == [3] * 20 and counts[25] == 4
    assert counts[-1] == 4, "never above the maximum"


def test_a_dip_shorter_than_the_patience_changes_nothing():
    assert run([50, 50, 50, 50, 500, 50, 50, 50, 50, 500], count=2) == [2] * 10


def test_it_shrinks_to_the_minimum():
    assert run([5000.0] * 60, count=2)[-1] == 1


def test_it_does_not_shrink_where_the_rest_would_want_it_back():
    tight = RULES.model_copy(update={"grow_below_tokens": 900.0})
    state, count = ScaleState(), 2
    for second in range(30):  # 1100 tokens on two hosts are 550 on one, below 900
        state, count = desired_count(state, 1100.0, count, float(second), tight)
    assert count == 2


def test_between_the_bounds_nothing_happens():
    assert run([500.0] * 60, count=3) == [3] * 60


@pytest.mark.parametrize(("count", "expected"), [(0, 1), (9, 4)])
def test_counts_outside_of_the_bounds_are_brought_in_at_once(count: int, expected: int):
    assert run([500.0], count=count) == [expected]
