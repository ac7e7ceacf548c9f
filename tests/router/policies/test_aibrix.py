"""Decisions of AIBrix's prefix-cache, worked out by hand from its thresholds."""

from shoal.router.contract import InstanceLoad
from tests.tools.routing import chosen, view_of


def test_highest_match_wins_and_fewest_requests_decide_between_equals():
    view = view_of(
        a=(InstanceLoad(running=9), 5), b=(InstanceLoad(running=8), 5), c=(InstanceLoad(), 4), d=(InstanceLoad(), 0)
    )
    assert chosen("aibrix_prefix_cache", view) == {"b"}


def test_imbalance_above_16_goes_to_the_fewest_requests():
    def view(most: int):
        return view_of(a=(InstanceLoad(running=most), 10), b=(InstanceLoad(), 0), c=(InstanceLoad(running=1), 0))

    assert chosen("aibrix_prefix_cache", view(16)) == {"a"}
    assert chosen("aibrix_prefix_cache", view(17)) == {"b"}


def test_match_on_an_instance_two_deviations_above_the_mean_is_skipped():
    others = {name: (InstanceLoad(running=1), 0) for name in "bcdefg"}
    view = view_of(a=(InstanceLoad(running=15), 10), h=(InstanceLoad(running=2), 1), **others)
    # 15, 2 and six times 1: mean 2.875, deviation 4.595: at most 12.06
    assert chosen("aibrix_prefix_cache", view) == {"h"}


def test_nobody_matches_and_the_fewest_requests_win():
    view = view_of(a=(InstanceLoad(running=3), 0), b=(InstanceLoad(waiting=1), 0), c=(InstanceLoad(running=1), 0))
    assert chosen("aibrix_prefix_cache", view) == {"b", "c"}
