"""Llumnix's dispatch rules, worked out by hand."""

from shoal.router.contract import InstanceLoad
from tests.tools.routing import chosen, costs, view_of


def test_freeness_is_free_blocks_less_queued_ones_per_request():
    view = view_of(
        a=(InstanceLoad(running=4, free_blocks=80), 0),  # 80 / 4 = 20
        b=(InstanceLoad(running=1, waiting=1, free_blocks=90, queued_prefill_tokens=200), 0),  # (90 - 20) / 2 = 35
        c=(InstanceLoad(running=1, waiting=1, free_blocks=10, queued_prefill_tokens=300), 0),  # (10 - 30) / 2 = -10
    )
    assert costs("llumnix_freeness", view) == {"b": 0, "a": 15, "c": 45}


def test_idle_instance_is_as_free_as_it_is_large():
    view = view_of(a=(InstanceLoad(free_blocks=100), 0), b=(InstanceLoad(running=1, free_blocks=99), 10))
    assert costs("llumnix_freeness", view) == {"a": 0, "b": 1}


def test_backlog_adds_what_is_missing_to_what_is_queued():
    view = view_of(
        a=(InstanceLoad(running=9, uncached_prefill_tokens=50), 10),  # 5 + 50
        b=(InstanceLoad(waiting=1, queued_prefill_tokens=20), 7),  # 35 + 20
        c=(InstanceLoad(), 4),  # 65
    )
    assert costs("llumnix_backlog", view) == {"a": 55, "b": 55, "c": 65}
    assert chosen("llumnix_backlog", view) == {"a", "b"}
