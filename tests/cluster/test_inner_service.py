"""What a frontend tells of a request, over a real connection, to whoever has the cluster's token."""

from __future__ import annotations

import grpc
import pytest

from shoal.cluster.inner_service import InnerServer
from shoal.cluster.stories import Stories
from shoal.instance.auth import token_metadata
from shoal.proto.v1 import controller_pb2 as pb
from shoal.proto.v1 import controller_pb2_grpc as rpc
from shoal.router.contract import Placement


async def test_a_story_is_told_only_with_the_token():
    stories = Stories()
    stories.placed("cmpl-1", Placement("i0", 64), 1, 0.0)
    server = await InnerServer.start(stories, "127.0.0.1", "secret")
    try:
        async with grpc.aio.insecure_channel(server.address) as channel:
            ask = rpc.FrontendStub(channel).Story
            told = await ask(pb.StoryRequest(request_id="cmpl"), metadata=token_metadata("secret"), timeout=10)
            (story,) = told.requests
            assert story.request_id == "cmpl-1"
            assert [(one.instance, one.why, one.cached_tokens) for one in story.stays] == [("i0", "placed", 64)]
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ask(pb.StoryRequest(request_id="cmpl"), metadata=token_metadata("wrong"), timeout=10)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    finally:
        await server.stop()
