import argparse
import asyncio
import os

import pytest

from shoal.bench import at_hand
from shoal.bench.at_hand import (
    ClusterAtHand,
    Footprint,
    compare,
    footprints,
    is_idle,
    open_requests,
    own_config,
    requests_held,
    watch_memory,
)
from shoal.cluster.rundir import RunDir
from shoal.proto.errors import Unavailable
from shoal.proto.v1 import controller_pb2 as pb


def instance(name: str = "i0", *, state: str = "ready", running: int = 0, free: int = 8) -> pb.InstanceStatus:
    return pb.InstanceStatus(id=name, state=state, pid=os.getpid(), running=running, free_blocks=free, total_blocks=8)


def status(*instances: pb.InstanceStatus) -> pb.StatusReply:
    return pb.StatusReply(instances=instances)


IDLE = status(instance())
BUSY = status(instance(running=1, free=3))


class Scripted(ClusterAtHand):
    """Says each of its statuses once, the last one for ever."""

    def __init__(self, *statuses: pb.StatusReply) -> None:
        self.statuses = list(statuses)

    def status(self) -> pb.StatusReply:
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(at_hand, "HOLD_S", 0.05)
    monkeypatch.setattr(at_hand, "POLL_S", 0.001)


@pytest.mark.parametrize(
    "busy",
    [instance(running=1), instance(free=7), instance(state="starting"), pb.InstanceStatus(state="ready", waiting=1)],
)
def test_idle_means_all_blocks_and_no_request_anywhere(busy):
    assert is_idle(status(instance("i0"), instance("i1")))
    assert not is_idle(status(instance("i0"), busy))
    assert not is_idle(status())


def test_an_idle_that_does_not_last_is_none():
    cluster = Scripted(IDLE, BUSY, BUSY, BUSY, IDLE)
    since_s = cluster.idle_since(5.0)
    assert since_s is not None and len(cluster.statuses) == 1


def test_one_that_stays_busy_is_never_idle():
    assert Scripted(BUSY).idle_since(0.05) is None


def test_open_requests_are_read_from_the_metrics():
    text = """# HELP shoal_frontend_open_requests Requests not ended yet.
shoal_frontend_open_requests{frontend="f0",model_name="m"} 3.0
shoal_frontend_open_requests_other{frontend="f0"} 9.0
"""
    assert open_requests(text) == 3
    with pytest.raises(ValueError, match="shoal_frontend_open_requests"):
        open_requests("nothing 1.0\n")


def test_requests_of_instances_count_as_held():
    assert requests_held(status(instance(running=2), instance("i1", running=1))) == 3


def test_metrics_that_do_not_answer_are_unavailable():
    with pytest.raises(Unavailable):
        requests_held(pb.StatusReply(frontends=[pb.FrontendInfo(metrics="http://127.0.0.1:1/metrics")]))


def test_growth_is_of_the_sum_and_a_replaced_process_is_named():
    before = {"f0": Footprint(1, 150, 10, 5), "i0": Footprint(2, 50, 4, 2)}
    after = {"f0": Footprint(1, 151, 11, 5), "i0": Footprint(3, 53, 4, 2)}
    result = compare(before, after)
    assert result["memory_growth_pct"] == pytest.approx(2.0)
    assert (result["files_before"], result["files_after"]) == (14, 15)
    assert result["replaced"] == ["i0"]
    assert result["processes"]["i0"]["after"]["pid"] == 3


def test_a_process_that_is_gone_counts_as_replaced():
    result = compare({"i0": Footprint(2, 50, 4, 2)}, {})
    assert result["replaced"] == ["i0"] and result["memory_growth_pct"] == -100
    assert compare({}, {})["memory_growth_pct"] is None


def test_a_footprint_is_of_a_living_process():
    gone = pb.InstanceStatus(id="gone", pid=2**22 - 1)
    found = footprints(status(instance("here"), gone))
    assert found.keys() == {"here"}
    assert found["here"].rss_bytes > 0 and found["here"].files > 0


async def test_memory_is_watched_until_it_is_enough():
    timeline: list[dict[str, float]] = []
    watching = asyncio.create_task(
        watch_memory(footprints(status(instance("here"))) | {"gone": Footprint(2**22 - 1, 1, 1, 1)}, 0.001, timeline)
    )
    while len(timeline) < 3:
        await asyncio.sleep(0.001)
    watching.cancel()
    assert all(row.keys() == {"s", "here"} and row["here"] > 1 for row in timeline)


def test_a_cluster_that_does_not_run_is_one_line(tmp_path):
    with pytest.raises(Unavailable, match="cluster other: not running"):
        ClusterAtHand(RunDir(tmp_path / "other"))


def test_the_caches_of_both_engines_are_small():
    parser = argparse.ArgumentParser()
    at_hand.add_arguments(parser)
    config = own_config(parser.parse_args(["--model", "/m", "--engine", "fake", "--kv-cache-mib", "64"]))
    assert config.engine.kv_cache_bytes == 64 << 20
    assert config.fake.total_blocks * config.engine.block_size >= (config.engine.max_model_len or 0)
