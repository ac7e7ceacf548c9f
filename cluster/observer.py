"""The controller's line to one instance: an Attach stream that submits nothing. It hears heartbeats, steps, load and
how moves ended, and says who the peers are, what shall move, and how the instance is meant to be.

The stream's end is the first sign of a death: milliseconds for a crash, about two seconds for a cut link or a frozen
peer. What was not sent when it ends is dropped: the next stream begins with the present truth.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc

from shoal.instance.auth import token_metadata
from shoal.instance.frames import PROTOCOL
from shoal.instance.inner_tls import PLAIN, InnerTls
from shoal.proto.errors import BadMessage
from shoal.proto.seal import Sealer, SealReader
from shoal.proto.v1 import instance_pb2 as pb
from shoal.proto.v1 import instance_pb2_grpc as rpc

WATCHER_ID = "controller"
# ping_timeout_ms is the option that acts on a silent peer; keepalive_timeout_ms alone does not.
CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.keepalive_timeout_ms", 1000),
    ("grpc.http2.ping_timeout_ms", 1000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 64 << 20),
)
Outbox = asyncio.Queue[pb.Up]


async def _frames(outbox: Outbox) -> AsyncIterator[pb.Up]:
    sealer = Sealer()
    frame = pb.Up(hello=pb.Hello(protocol=PROTOCOL, watcher_id=WATCHER_ID))
    while True:
        sealer.seal(frame)
        yield frame
        frame = await outbox.get()


async def observe(
    address: str,
    token: str,
    outbox: Outbox,
    *,
    welcomed: Callable[[pb.Welcome], None],
    heard: Callable[[pb.Down], None],
    tls: InnerTls = PLAIN,
) -> str:
    """Listens until the stream ends and returns why. Only cancellation raises."""
    while not outbox.empty():
        outbox.get_nowait()
    async with tls.aio_channel(address, CHANNEL_OPTIONS) as channel:
        call = rpc.InstanceStub(channel).Attach(_frames(outbox), metadata=token_metadata(token))
        seals: SealReader | None = SealReader()
        try:
            async for frame in call:
                if frame is None:  # gRPC's word for bytes that are no Down
                    return "stream damaged: bytes of no frame"
                if frame.WhichOneof("frame") == "welcome" and not frame.welcome.sealed:
                    seals = None
                if seals is not None:
                    seals.check(frame)
                if frame.WhichOneof("frame") == "welcome":
                    welcomed(frame.welcome)
                else:
                    heard(frame)
        except BadMessage as exc:
            return f"stream damaged: {exc}"[:200]
        except grpc.aio.AioRpcError as exc:
            return f"stream {exc.code().name.lower()}: {exc.details()}"[:200]
        return "stream closed by the instance"


__all__ = ["CHANNEL_OPTIONS", "Outbox", "observe"]
