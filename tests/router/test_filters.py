"""Offline work takes what is left over, and nothing else is held back by it."""

from random import Random

from shoal.router.contract import InstanceLoad, Placement, RouteRequest, Wait
from shoal.router.place import place
from shoal.router.profile import build_policy
from tests.tools.routing import view_of


def ask(load: InstanceLoad, *, offline: bool = True):
    request = RouteRequest("r", 100, 5, offline=offline)
    return place(request, view_of(a=(load, 0)), build_policy("prefix_least_work"), 0.0, Random(0))


def test_offline_work_leaves_a_quarter_of_the_memory_free():
    assert isinstance(ask(InstanceLoad(running=1, free_blocks=35)), Placement)  # 35 - 10 = 25 of 100
    assert isinstance(ask(InstanceLoad(running=1, free_blocks=34)), Wait)
    assert isinstance(ask(InstanceLoad(running=1, free_blocks=34), offline=False), Placement)


def test_offline_work_does_not_join_a_queue():
    assert isinstance(ask(InstanceLoad(running=1, waiting=1, free_blocks=90)), Wait)


def test_offline_work_of_any_size_goes_to_an_idle_instance():
    assert isinstance(ask(InstanceLoad(free_blocks=10)), Placement)


def test_those_behind_offline_work_need_not_wait_for_it():
    assert not ask(InstanceLoad(running=1)).holds_up
