"""Scores of llm-d's weighted scorers, worked out by hand: cost = 4 - score."""

import pytest

from shoal.router.contract import InstanceLoad
from tests.tools.routing import costs, view_of


def test_cost_weighs_prefix_twice_and_kv_use_and_queue_once():
    view = view_of(
        a=(InstanceLoad(waiting=4, free_blocks=50), 8),
        b=(InstanceLoad(waiting=1, free_blocks=90), 2),
        c=(InstanceLoad(waiting=0, free_blocks=10), 0),
    )
    # score a: 2 * 0.8 + 0.5 + 0 = 2.1; b: 2 * 0.2 + 0.9 + 0.75 = 2.05; c: 0 + 0.1 + 1 = 1.1
    assert costs("llmd", view) == pytest.approx({"a": 1.9, "b": 1.95, "c": 2.9})


def test_equal_queues_cost_nothing():
    view = view_of(a=(InstanceLoad(waiting=4, free_blocks=100), 0), b=(InstanceLoad(waiting=4, free_blocks=100), 10))
    assert costs("llmd", view) == {"b": 0.0, "a": 2.0}
