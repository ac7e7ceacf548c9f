"""Decisions of SGLang's cache_aware, worked out by hand from its thresholds."""

from shoal.router.contract import InstanceLoad
from tests.tools.routing import chosen, view_of


def test_longest_match_above_the_threshold_wins_whatever_the_load():
    view = view_of(a=(InstanceLoad(running=60), 4), b=(InstanceLoad(), 3), c=(InstanceLoad(), 0))
    assert chosen("sglang_cache_aware", view) == {"a"}  # 40 of 105 tokens: 0.38


def test_match_at_or_below_the_threshold_goes_to_the_smallest_tree():
    view = view_of(a=(InstanceLoad(), 3), b=(InstanceLoad(running=9), 1), c=(InstanceLoad(), 2))
    assert chosen("sglang_cache_aware", view) == {"b"}  # 30 of 105 tokens: 0.29


def test_out_of_balance_by_both_measures_goes_to_the_fewest_requests():
    view = view_of(a=(InstanceLoad(running=66), 10), b=(InstanceLoad(running=1), 0), c=(InstanceLoad(waiting=2), 0))
    assert chosen("sglang_cache_aware", view) == {"b"}


def test_out_of_balance_by_one_measure_only_is_in_balance():
    by_ratio = view_of(a=(InstanceLoad(running=64), 10), b=(InstanceLoad(), 0))  # 64 apart is not more than 64
    by_difference = view_of(a=(InstanceLoad(running=270), 10), b=(InstanceLoad(running=180), 0))  # 1.5 is not more
    assert chosen("sglang_cache_aware", by_ratio) == chosen("sglang_cache_aware", by_difference) == {"a"}
