"""Costs of Dynamo's KV router in blocks, worked out by hand."""

import pytest

from shoal.router.contract import InstanceLoad
from shoal.router.prefix_index import Tier
from tests.tools.routing import chosen, costs, hold, view_of


def test_cost_is_uncredited_prefill_and_all_decode_blocks():
    view = view_of(
        a=(InstanceLoad(running=1, context_tokens=200, uncached_prefill_tokens=30), 6),
        b=(InstanceLoad(waiting=1, queued_prefill_tokens=50), 0),
    )
    # a: (30 + 105 - 60) / 10 + (200 + 30 + 105) / 10 = 7.5 + 33.5; b: (50 + 105) / 10 + (50 + 105) / 10
    assert costs("dynamo_cost", view) == {"b": 31.0, "a": 41.0}


def test_slower_tiers_earn_less_credit():
    view = view_of(a=(InstanceLoad(), 2), b=(InstanceLoad(), 0))
    hold(view, "a", slice(2, 6), Tier.POOL)
    hold(view, "a", slice(6, 8), Tier.DISK)
    # a: 10.5 - (2 + 4 * 0.75 + 2 * 0.25) + 10.5; b: 10.5 + 10.5
    assert costs("dynamo_cost", view) == pytest.approx({"a": 15.5, "b": 21.0})


def test_hit_may_not_outweigh_a_long_batch():
    view = view_of(a=(InstanceLoad(running=3, context_tokens=101), 10), b=(InstanceLoad(), 0))
    assert chosen("dynamo_cost", view) == {"b"}  # 0.5 + 20.6 = 21.1 against 21
