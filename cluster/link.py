"""One Attach stream from this frontend to one instance: its only writer, its only reader, and the judge of its silence.

A dead peer ends the stream in milliseconds; a cut or frozen one says nothing, so a stream without a frame for SILENCE_S
is ended here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from enum import Enum
from typing import Any

import grpc

from shoal.instance.auth import token_metadata
from shoal.instance.frames import PROTOCOL
from shoal.instance.inner_tls import PLAIN, InnerTls
from shoal.proto.errors import BadMessage, Unavailable, VersionMismatch
from shoal.proto.seal import Sealer, SealReader
from shoal.proto.v1 import instance_pb2 as pb
from shoal.proto.v1 import instance_pb2_grpc as rpc

log = logging.getLogger(__name__)
SILENCE_S = 1.5
UNHEARD_S = 3.0
MAX_MESSAGE_BYTES = 256 << 20
CHANNEL_OPTIONS = (
    ("grpc.http2.ping_timeout_ms", 1000),  # keepalive_timeout_ms alone notices a frozen peer after a minute
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.use_local_subchannel_pool", 1),
)


class LinkEnd(Enum):
    """Why a link ended. Only CRASHED counts against the requests that were there."""

    CRASHED = "crashed"  # the connection broke
    SILENT = "silent"  # nothing was heard: frozen, or cut off
    CLOSED = "closed"  # the instance ended the stream in words, or sent what cannot be taken in


class Link:
    """`instance_id` is who answered. `on_frame` and `on_end` are called on the loop; `on_end` exactly once after a good
    `open`.
    """

    def __init__(
        self,
        address: str,
        token: str,
        hello: pb.Hello,
        on_frame: Callable[[Link, pb.Down], None],
        on_end: Callable[[Link, LinkEnd], None],
        tls: InnerTls = PLAIN,
    ) -> None:
        self.address, self.token, self.hello, self.tls = address, token, hello, tls
        self.on_frame, self.on_end = on_frame, on_end
        self.instance_id = ""
        self.outbox: asyncio.Queue[pb.Up | None] = asyncio.Queue()
        self.unacknowledged: deque[str] = deque()
        self.acknowledged = 0
        self.sealer, self.seals = Sealer(), SealReader()
        self.unheard: deque[tuple[int, float]] = deque()  # up-frames: number, sent at
        self.heard_s = 0.0
        self.heard_step = 0
        self.channel: Any = None
        self.call: Any = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.ended = False

    async def open(self, timeout_s: float = 10.0) -> pb.Welcome:
        """Raises Unavailable or VersionMismatch; then nothing is left behind."""
        self.channel = self.tls.aio_channel(self.address, CHANNEL_OPTIONS)
        self.call = rpc.InstanceStub(self.channel).Attach(self._frames(), metadata=token_metadata(self.token))
        try:
            async with asyncio.timeout(timeout_s):
                first = await self.call.read()
            if not isinstance(first, pb.Down) or not first.welcome.sealed:
                raise Unavailable(f"instance at {self.address}: the stream did not begin with a sealed Welcome")
            self.seals.check(first)
        except BaseException as exc:
            await self._close_channel()
            if isinstance(exc, grpc.aio.AioRpcError) and exc.code() is grpc.StatusCode.FAILED_PRECONDITION:
                raise VersionMismatch(exc.details() or "") from None
            if isinstance(exc, (grpc.aio.AioRpcError, TimeoutError, BadMessage)):
                raise Unavailable(f"instance at {self.address}: {exc!r:.200}") from None
            raise
        self.instance_id, self.heard_s = first.welcome.instance_id, time.monotonic()
        return first.welcome

    def start(self) -> None:
        """From here on frames arrive."""
        self._spawn(self._read())
        self._spawn(self._watch())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _frames(self) -> AsyncIterator[pb.Up]:
        """The one writer: overlapping writes would end the stream."""
        frame: pb.Up | None = pb.Up(hello=self.hello)
        while frame is not None:
            self.sealer.seal(frame)
            self.unheard.append((frame.number, time.monotonic()))
            yield frame
            frame = await self.outbox.get()

    def submit(self, submit: pb.Submit) -> None:
        self.unacknowledged.append(submit.request_id)
        self.outbox.put_nowait(pb.Up(submit=submit))

    def take_over(self, takeover: pb.Takeover) -> None:
        self.unacknowledged.append(takeover.request_id)
        self.outbox.put_nowait(pb.Up(takeover=takeover))

    def send(self, frame: pb.Up) -> None:
        self.outbox.put_nowait(frame)

    def take_acknowledged(self, accepted: int) -> list[str]:
        """Requests that the instance's load now includes."""
        news = [
            self.unacknowledged.popleft() for _ in range(min(accepted - self.acknowledged, len(self.unacknowledged)))
        ]
        self.acknowledged += len(news)
        return news

    async def _read(self) -> None:
        why, call = LinkEnd.CLOSED, self.call
        try:
            while (frame := await call.read()) is not grpc.aio.EOF:
                if frame is None:  # gRPC's word for bytes that are no Down
                    raise BadMessage("a frame that cannot be parsed")
                self.seals.check(frame)
                self.heard_s = time.monotonic()
                if frame.WhichOneof("frame") == "report":
                    self._check_heard(frame.report.heard)
                self.on_frame(self, frame)
        except grpc.aio.AioRpcError as exc:
            why = _why(exc)
        except Exception:  # whatever a frame holds: its requests must move on, not hang on a dead reader
            log.exception("%s sent what cannot be taken in", self.instance_id)
        self._end(why)

    def _check_heard(self, heard: int) -> None:
        """A frame that got lost on the way up shows in nothing else: its request would wait for ever."""
        while self.unheard and self.unheard[0][0] <= heard:
            self.unheard.popleft()
        if self.unheard and self.heard_s - self.unheard[0][1] > UNHEARD_S:
            raise BadMessage(f"frame {self.unheard[0][0]} was not taken in within {UNHEARD_S:g} s")

    async def _watch(self) -> None:
        checked_s = time.monotonic()
        while not self.ended:
            await asyncio.sleep(SILENCE_S / 5)
            now_s = time.monotonic()
            if now_s - checked_s > SILENCE_S:  # this process slept, not the peer: give it time to be read
                self.heard_s = max(self.heard_s, now_s - SILENCE_S / 2)
            checked_s = now_s
            if now_s - self.heard_s > SILENCE_S:
                self._end(LinkEnd.SILENT)

    def _end(self, why: LinkEnd) -> None:
        if not self.ended:
            self.ended = True
            self.on_end(self, why)
            self._spawn(self._close_channel())

    async def close(self) -> None:
        self.ended = True
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await self._close_channel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _close_channel(self) -> None:
        """gRPC keeps the connection as long as anybody holds the channel or a call of it, closed or not; and it goes on
        asking a request iterator of a call that has ended.
        """
        self.outbox.put_nowait(None)
        call, channel, self.call, self.channel = self.call, self.channel, None, None
        if channel is not None:
            call.cancel()
            with contextlib.suppress(Exception):
                await channel.close()


def _why(error: grpc.aio.AioRpcError) -> LinkEnd:
    """A broken connection is the only sign of a crash. An unanswered ping is silence; any other status is somebody's
    word, and so is a server's that stops.
    """
    words = error.details() or ""
    if error.code() is not grpc.StatusCode.UNAVAILABLE or words.endswith("is stopping"):
        return LinkEnd.CLOSED
    return LinkEnd.SILENT if "ping timeout" in words else LinkEnd.CRASHED


def hello_of(watcher_id: str, vllm_version: str) -> pb.Hello:
    return pb.Hello(protocol=PROTOCOL, watcher_id=watcher_id, vllm_version=vllm_version)


__all__ = ["CHANNEL_OPTIONS", "SILENCE_S", "Link", "LinkEnd", "hello_of"]
