"""One stream of pictures from the controller, for everybody who looks through this frontend. Owns that stream: it is
open while somebody looks. A viewer that is slow skips pictures; nobody waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field

import grpc

from shoal.cluster.console.words import event, picture_tree
from shoal.cluster.controller_client import CALL_S
from shoal.cluster.link import CHANNEL_OPTIONS
from shoal.cluster.stories import Stories
from shoal.instance.auth import token_metadata
from shoal.instance.inner_tls import PLAIN, InnerTls
from shoal.proto.errors import Overloaded, ShoalError, Unavailable
from shoal.proto.v1 import controller_pb2 as pb
from shoal.proto.v1 import controller_pb2_grpc as rpc

MAX_VIEWERS = 32
RETRY_S = 0.5
BEAT_S = 10.0
BEAT = b": beat\n\n"
BLIND = event("blind", {"why": "the controller does not answer; requests are served all the same"})


@dataclass(eq=False, slots=True)
class Viewer:
    """`news`: the newest event that it has not seen; empty: the end."""

    news: bytes = b""
    woken: asyncio.Event = field(default_factory=asyncio.Event)

    def show(self, news: bytes) -> None:
        self.news = news
        self.woken.set()


class Gallery:
    """`controller`: its present address; may block."""

    def __init__(self, controller: Callable[[], str], token: str, stories: Stories, tls: InnerTls = PLAIN) -> None:
        self._controller, self._token, self._stories, self._tls = controller, token, stories, tls
        self._viewers: set[Viewer] = set()
        self._last = b""
        self._looking: asyncio.Task[None] | None = None

    def events(self) -> AsyncGenerator[bytes, None]:
        """For one viewer, until it leaves or this closes. Raises Overloaded, at once."""
        if len(self._viewers) >= MAX_VIEWERS:
            raise Overloaded(f"viewers: at most {MAX_VIEWERS} at one frontend", retry_after_s=BEAT_S)
        return self._events(Viewer())

    async def _events(self, viewer: Viewer) -> AsyncGenerator[bytes, None]:
        self._viewers.add(viewer)
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._look())
        elif self._last:
            viewer.show(self._last)
        try:
            while news := await self._next(viewer):
                yield news
        finally:
            self._viewers.discard(viewer)
            if not self._viewers:
                await self.close()

    async def _next(self, viewer: Viewer) -> bytes:
        try:
            async with asyncio.timeout(BEAT_S):
                await viewer.woken.wait()
        except TimeoutError:
            return BEAT
        viewer.woken.clear()
        return viewer.news

    async def _look(self) -> None:
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError, ShoalError):
                address = await asyncio.to_thread(self._controller)
                async with self._tls.aio_channel(address, CHANNEL_OPTIONS) as channel:
                    stream = rpc.ControllerStub(channel).View(pb.ViewRequest(), metadata=token_metadata(self._token))
                    await self._show_all(stream)
            self._show(BLIND)
            await asyncio.sleep(RETRY_S)

    async def _show_all(self, stream: AsyncIterator[pb.Picture]) -> None:
        told = self._stories.count
        async for picture in stream:
            decisions, told = self._stories.since(told), self._stories.count
            self._show(event("picture", picture_tree(picture, decisions)))

    def _show(self, news: bytes) -> None:
        self._last = news
        for viewer in self._viewers:
            viewer.show(news)

    async def frontends(self) -> list[pb.FrontendInfo]:
        """All of the cluster. Raises Unavailable."""
        address = await asyncio.to_thread(self._controller)
        async with self._tls.aio_channel(address, CHANNEL_OPTIONS) as channel:
            ask = rpc.ControllerStub(channel).Status
            try:
                reply = await ask(pb.StatusRequest(), timeout=CALL_S, metadata=token_metadata(self._token))
            except grpc.aio.AioRpcError as exc:
                raise Unavailable(f"controller: {exc.code().name.lower()}: {exc.details()}") from None
        return list(reply.frontends)

    async def close(self) -> None:
        for viewer in self._viewers:
            viewer.show(b"")
        looking, self._looking, self._last = self._looking, None, b""
        if looking is not None:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)


__all__ = ["MAX_VIEWERS", "Gallery"]
