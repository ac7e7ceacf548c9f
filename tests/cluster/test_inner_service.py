"""What a frontend tells of a request, over a real connection, to whoever has the cluster's token."""

from __future__ import annotations

import grpc
import pytest

from shoal.cluster.inner_service import InnerServer, report_of
from shoal.cluster.stories import Stories
from shoal.instance.auth import token_metadata
from shoal.proto.v1 import controller_pb2 as pb
from shoal.proto.v1 import controller_pb2_grpc as rpc
from shoal.router.contract import Placement
from shoal.router.pilot import Pilot, Wanted
from shoal.router.profile import build_policy
from shoal.router.rollout import Stage
from shoal.router.weights import RouterWeights, write_weights


async def test_a_story_is_told_only_with_the_token():
    stories = Stories()
    stories.placed("cmpl-1", Placement("i0", 64, policy="learned v1", rail="drift: long"), 1, 0.0)
    server = await InnerServer.start(stories, Pilot(build_policy("least_work")), "127.0.0.1", "secret")
    try:
        async with grpc.aio.insecure_channel(server.address) as channel:
            ask = rpc.FrontendStub(channel).Story
            told = await ask(pb.StoryRequest(request_id="cmpl"), metadata=token_metadata("secret"), timeout=10)
            (story,) = told.requests
            assert story.request_id == "cmpl-1"
            assert [(one.instance, one.why, one.cached_tokens) for one in story.stays] == [("i0", "placed", 64)]
            assert (story.stays[0].policy, story.stays[0].rail) == ("learned v1", "drift: long")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ask(pb.StoryRequest(request_id="cmpl"), metadata=token_metadata("wrong"), timeout=10)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    finally:
        await server.stop()


async def test_it_tells_how_its_learned_weights_do():
    pilot = Pilot(build_policy("least_work"))
    pilot.follow(Wanted(1, Stage.CANARY, write_weights(RouterWeights("v1")), 0.5))
    pilot.follow(Wanted(2, Stage.SHADOW, b"{}"))
    report = report_of(pilot)
    assert (report.stage, report.version, report.counts["served_canary"]) == ("canary", "v1", 0.0)
    assert "version" in report.refused and not report.holding
