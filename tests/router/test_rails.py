"""Each guard rail, by hand."""

import numpy as np
import pytest

from shoal.router.features import FEATURES
from shoal.router.rails import WINDOW, Rail, Rails, drifted, frozen, late
from shoal.router.weights import RouterWeights, Seen

SEEN = {"long": Seen(0, 5, 1.0, 0.5), "answer": Seen(0, 5, 1.0, 0.5), "batch": Seen(0, 3, 1.0, 0.5)}
LIKE = (1.0, 1.0)


def rows(batch: float) -> np.ndarray:
    """Two candidates, the second with that batch; all else moves by itself."""
    both = np.zeros((2, len(FEATURES)))
    both[1, FEATURES.index("batch")] = batch
    return both


def rails() -> Rails:
    return Rails(RouterWeights("v", seen=SEEN))


def fill(one: Rails, request=LIKE, batch=lambda n: n % 7, times=WINDOW) -> Rails:
    for n in range(times):
        one.saw(request, rows(batch(n)))
    return one


@pytest.mark.parametrize(("late_of_ten", "tripped"), [(0, False), (1, False), (2, True)])
def test_decisions_are_late_when_more_than_a_tenth_takes_over_a_millisecond(late_of_ten, tripped):
    took_s = np.array([0.002] * late_of_ten + [0.0001] * (10 - late_of_ten))
    assert late(took_s) is tripped


@pytest.mark.parametrize(("mean", "name"), [(1.9, None), (2.1, "long"), (-0.1, "long")])
def test_requests_have_drifted_when_a_mean_is_two_deviations_away(mean, name):
    assert drifted(np.array([[mean - 0.5, 1.0], [mean + 0.5, 1.0]]), SEEN) == name


def test_a_feed_is_frozen_when_neither_its_mean_nor_its_spread_moves():
    def seen_as(batches):
        return np.array([np.concatenate([rows(b).std(axis=0), rows(b).mean(axis=0)]) for b in batches])

    assert frozen(seen_as([1.0, 1.0, 1.0]), SEEN) == "batch"
    assert frozen(seen_as([1.0, 1.0, 2.0]), SEEN) is None
    assert frozen(seen_as([1.0, 1.0]), {}) is None, "what training did not see vary is not judged"


def test_ordinary_traffic_trips_nothing():
    assert fill(rails(), times=4 * WINDOW).holding is None


def test_a_shifted_workload_holds_the_weights_back_until_it_returns():
    one = fill(rails(), request=(3.0, 1.0))
    assert one.holding is Rail.DRIFT and "long" in one.why
    assert fill(one).holding is None


def test_a_frozen_feed_holds_the_weights_back_until_it_moves():
    one = fill(rails(), batch=lambda n: 2.0)
    assert one.holding is Rail.FROZEN and "batch" in one.why
    assert fill(one).holding is None


def test_slow_decisions_hold_the_weights_back_until_they_are_quick_again():
    one = rails()
    for _ in range(WINDOW):
        one.took(0.005)
    assert one.holding is Rail.DEADLINE
    for _ in range(WINDOW):
        one.took(0.0001)
    assert one.holding is None


def test_nobody_gets_more_than_twice_his_share_of_a_full_window():
    one = rails()
    for n in range(WINDOW):
        assert not one.hogs("a", 4), "not judged before the window is full"
        one.placed("a" if n < WINDOW // 2 else "b")
    assert one.hogs("a", 4) and one.hogs("b", 4)  # half each, of four
    assert not one.hogs("c", 4)
    assert not one.hogs("a", 2), "of two, one may have all"
    for _ in range(WINDOW // 4):
        one.placed("c")
    assert not one.hogs("a", 4)
