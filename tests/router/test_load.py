"""Freeness as the docstring of `load` defines it, worked out by hand: hosts of 100 blocks of 10 tokens."""

import pytest

from shoal.router.fleet import Host, Job, Phase
from shoal.router.load import average_freeness, freeness


def host(free: int, *jobs: Job, **facts: object) -> Host:
    return Host(**{"id": "a", "block_size": 10, "total_blocks": 100, "free_blocks": free, "jobs": jobs} | facts)


def running(blocks: int = 0, priority: int = 0) -> Job:
    return Job("r", blocks=blocks, priority=priority)


def waiting(blocks: int, age_s: float = 1.0, priority: int = 0) -> Job:
    return Job("w", phase=Phase.WAITING, blocks=blocks, age_s=age_s, priority=priority)


def test_an_empty_host_is_as_free_as_its_cache_is_large():
    assert freeness(host(100)) == 1000


def test_running_requests_share_what_is_free():
    assert freeness(host(40, running(30), running(30))) == 40 * 10 / 2


def test_only_the_head_of_the_queue_counts_and_it_counts_with_its_demand():
    jobs = [running(70), waiting(50, age_s=9.0), waiting(80, age_s=1.0)]
    assert freeness(host(30, *jobs)) == (30 - 50) * 10 / 2


def test_the_head_is_the_first_by_priority_then_by_age():
    jobs = [running(70), waiting(50, age_s=9.0), waiting(20, age_s=1.0, priority=-1)]
    assert freeness(host(30, *jobs)) == (30 - 20) * 10 / 2


def test_the_headroom_counts_once_however_many_high_requests_share_it():
    assert freeness(host(80, running(20, priority=-1)), headroom_tokens=300) == (80 - 30) * 10
    two = host(60, running(20, priority=-1), running(20, priority=-5))
    assert freeness(two, headroom_tokens=300) == (60 - 30) * 10 / 2


@pytest.mark.parametrize("priority", [0, 1])
def test_other_classes_have_no_headroom(priority: int):
    assert freeness(host(80, running(20, priority)), headroom_tokens=300) == 800


def test_a_draining_host_is_never_free():
    assert freeness(host(100, draining=True)) == float("-inf")


def test_the_average_is_over_hosts_that_take_requests():
    hosts = [host(100), host(50, running(50)), host(100, draining=True), host(100, placeable=False)]
    assert average_freeness(hosts) == (1000 + 500) / 2
    assert average_freeness([]) == float("-inf")
