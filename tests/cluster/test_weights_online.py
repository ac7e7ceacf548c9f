"""Learned weights on a running cluster: they come without a restart, each guard rail does what it is for, and no
request fails.
"""

import asyncio
import json
from dataclasses import replace

import pytest

from shoal.proto.v1 import controller_pb2 as pb
from shoal.router import pilot, rails
from shoal.router.rails import Rail
from shoal.router.rollout import Stage
from shoal.router.weights import RouterWeights, Seen, write_weights
from tests.tools.mini_cluster import MiniCluster, MiniFrontend, eventually

AT_ONCE = 8
PROMPT = list(range(1, 21))
HEALTHY = RouterWeights("v1", residual={"miss": 0.5})


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr(rails, "WINDOW", 24)
    monkeypatch.setattr(pilot, "LOOKED_AT", 1)
    monkeypatch.setattr(rails, "DEADLINE_S", 60.0)  # this machine may be slow


@pytest.fixture
async def cluster():
    async with MiniCluster(2) as one:
        yield one


async def want(cluster: MiniCluster, act: str, weights: RouterWeights | None = None, share: float = 0.0) -> None:
    raw = write_weights(weights) if weights else b""
    await cluster.controller.Router(pb.RouterAct(act=act, weights=raw, share=share))
    serial = cluster.controller.desk.wanted.serial
    await eventually(lambda: all(f.dispatcher.pilot.wanted.serial == serial for f in cluster.frontends))


async def as_canary(cluster: MiniCluster, weights: RouterWeights, share: float = 0.95) -> MiniFrontend:
    frontend = await cluster.frontend()
    await want(cluster, "shadow", weights)
    await want(cluster, "canary", share=share)
    return frontend


async def serve(frontend: MiniFrontend, count: int, prompt: list[int] = PROMPT) -> None:
    """All are served, token for token."""
    doors, begun = asyncio.Semaphore(AT_ONCE), len(frontend.replies)

    async def one(n: int) -> None:
        async with doors:
            reply = await frontend.run(f"r{n}", prompt, 6)
            assert not reply.failed and reply.error is None and reply.tokens == reply.expected()

    await asyncio.gather(*(one(begun + n) for n in range(count)))


async def test_weights_come_and_go_without_a_restart_and_explain_names_them(cluster):
    frontend = await as_canary(cluster, HEALTHY, share=0.5)
    await serve(frontend, 20)
    stories = frontend.dispatcher.ledgers.stories
    policies = {stories.find(f"r{n}")[f"r{n}"][0].placement.policy for n in range(20)}
    assert policies == {"learned v1", "least_work"}
    await want(cluster, "withdraw")
    assert frontend.dispatcher.pilot.weights is None
    await serve(frontend, 4)
    frontend.check_empty()


async def test_a_poisoned_file_reaches_no_decision(cluster):
    """Past the controller, which would have refused it."""
    frontend = await as_canary(cluster, HEALTHY)
    desk = cluster.controller.desk
    poison = json.dumps({"version": "bad", "terms": {"queue_ms": -5.0}}).encode()
    desk.wanted = pb.RouterWanted(serial=9, stage="canary", weights=poison, share=0.9, version="bad")
    await cluster.publish()
    await eventually(lambda: frontend.dispatcher.pilot.refused != "")
    await serve(frontend, 10)
    assert "terms.queue_ms" in frontend.dispatcher.pilot.refused
    assert frontend.dispatcher.pilot.rollout.version == "v1"


async def test_weights_that_cost_goodput_are_rolled_back_everywhere(cluster, monkeypatch):
    """Theirs are judged late and all others in time, whatever this machine's clock says."""
    frontend = await as_canary(cluster, HEALTHY, share=0.5)
    other = await cluster.frontend("f1")
    await eventually(lambda: other.dispatcher.pilot.rollout.stage is Stage.CANARY)
    judged, arms = frontend.dispatcher.ledgers.judged, frontend.dispatcher.pilot.rollout.arm

    def slower(request_id: str, met: bool | None) -> None:
        judged(request_id, None if met is None else arms(request_id).value == "control")

    monkeypatch.setattr(frontend.dispatcher.ledgers, "judged", slower)
    monkeypatch.setattr("shoal.router.rollout.LEAST_SERVED", 10)
    await serve(frontend, 80)
    assert frontend.dispatcher.pilot.rollout.stage is Stage.BACK
    await eventually(lambda: other.dispatcher.pilot.rollout.stage is Stage.BACK)
    assert "f0: goodput" in cluster.controller.desk.wanted.why
    await serve(frontend, 4)


async def test_a_shifted_workload_goes_to_the_configured_policy(cluster):
    like = Seen(0.0, 0.2, 0.0198, 0.01)  # log 1.02: the prompts of 20 tokens
    frontend = await as_canary(cluster, replace_seen(long=like))
    await serve(frontend, 40)
    assert frontend.dispatcher.pilot.rails.holding is None
    await serve(frontend, 80, prompt=list(range(1, 241)))
    assert frontend.dispatcher.pilot.rails.holding is Rail.DRIFT
    assert frontend.dispatcher.pilot.rails.hits[Rail.DRIFT] > 0
    await serve(frontend, 80)
    assert frontend.dispatcher.pilot.rails.holding is None, "it is as it was"


async def test_a_frozen_feature_goes_to_the_configured_policy(cluster, monkeypatch):
    frontend = await as_canary(cluster, replace_seen(context=Seen(0.0, 9.0, 0.1, 0.1)))
    await serve(frontend, 60)
    assert frontend.dispatcher.pilot.rails.holding is None
    view = frontend.dispatcher.view
    observe = view.observe
    monkeypatch.setattr(
        view, "observe", lambda name, load, now_s: observe(name, replace(load, context_tokens=7), now_s)
    )
    await serve(frontend, 80)
    assert frontend.dispatcher.pilot.rails.holding is Rail.FROZEN
    assert "context" in frontend.dispatcher.pilot.rails.why


def replace_seen(**seen: Seen) -> RouterWeights:
    return RouterWeights("v1", residual={"miss": 0.5}, seen=seen)
