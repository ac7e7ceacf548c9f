"""Everybody who looks through a frontend shares one stream, which is open only while somebody does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
import pytest

from shoal.cluster.console import gallery as gallery_module
from shoal.cluster.console.gallery import MAX_VIEWERS, Gallery
from shoal.cluster.stories import Stories
from shoal.proto.errors import Overloaded
from shoal.proto.v1 import controller_pb2 as pb
from shoal.proto.v1 import controller_pb2_grpc as rpc
from shoal.router.contract import Placement
from tests.tools.mini_cluster import eventually


class Painter(rpc.ControllerServicer):
    """Sends a picture for each word put into `acts`."""

    def __init__(self) -> None:
        self.acts: asyncio.Queue[str] = asyncio.Queue()
        self.open = self.opened = 0

    async def View(self, request: Any, context: Any) -> AsyncIterator[pb.Picture]:
        self.open += 1
        self.opened += 1
        try:
            while True:
                yield pb.Picture(status=pb.StatusReply(act=await self.acts.get()))
        finally:
            self.open -= 1


@pytest.fixture
async def painter() -> AsyncIterator[tuple[Painter, str, Any]]:
    server, one = grpc.aio.server(), Painter()
    rpc.add_ControllerServicer_to_server(one, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield one, f"127.0.0.1:{port}", server
    await server.stop(None)


def tree_of(news: bytes) -> Any:
    return json.loads(news.decode().split("data: ")[1])


async def test_two_viewers_share_a_stream_a_late_one_sees_the_last_picture_and_the_last_ends_it(painter: Any):
    one, address, _ = painter
    stories = Stories()
    gallery = Gallery(lambda: address, "token", stories)
    async with aclosing(gallery.events()) as first, aclosing(gallery.events()) as second:
        await one.acts.put("a")
        assert tree_of(await anext(first))["act"] == "a"
        stories.placed("r", Placement("i0"), 1, 0.0)
        late = anext(second)
        assert tree_of(await late)["act"] == "a"
        await one.acts.put("b")
        for viewer in (first, second):
            tree = tree_of(await anext(viewer))
            assert tree["act"] == "b" and [d["request"] for d in tree["decisions"]] == ["r"]
        assert (one.open, one.opened) == (1, 1)
    await eventually(lambda: one.open == 0)


async def test_a_slow_viewer_skips_pictures_and_a_quiet_stream_beats(painter: Any, monkeypatch: Any):
    one, address, _ = painter
    gallery = Gallery(lambda: address, "token", Stories())
    async with aclosing(gallery.events()) as viewer:
        for act in "abc":
            await one.acts.put(act)
        assert tree_of(await anext(viewer))["act"] in "abc"
        await eventually(lambda: b'"c"' in gallery._last)
        for act in ("d", "e"):
            await one.acts.put(act)
        await eventually(lambda: b'"e"' in gallery._last)
        assert tree_of(await anext(viewer))["act"] == "e"
        monkeypatch.setattr(gallery_module, "BEAT_S", 0.01)
        assert await anext(viewer) == gallery_module.BEAT


async def test_without_a_controller_viewers_are_told_so_and_too_many_are_turned_away():
    gallery = Gallery(lambda: "127.0.0.1:1", "token", Stories())
    async with aclosing(gallery.events()) as viewer:
        assert (await anext(viewer)).startswith(b"event: blind\n")
        gallery._viewers |= {gallery_module.Viewer() for _ in range(MAX_VIEWERS - 1)}
        with pytest.raises(Overloaded):
            await anext(gallery.events())
        gallery._viewers.clear()
