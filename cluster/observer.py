"""The controller's ear on one instance: an Attach stream that submits nothing and hears heartbeats, steps and load.

The stream's end is the first sign of a death: milliseconds for a crash, about two seconds for a cut link or a frozen
peer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc

from shoal.instance.auth import token_metadata
from shoal.instance.frames import PROTOCOL
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


async def _hello_and_silence() -> AsyncIterator[pb.Up]:
    yield pb.Up(hello=pb.Hello(protocol=PROTOCOL, watcher_id=WATCHER_ID))
    await asyncio.Event().wait()  # the stream lives until the other side or the caller ends it


async def observe(
    address: str, token: str, *, welcomed: Callable[[pb.Welcome], None], reported: Callable[[pb.StepReport], None]
) -> str:
    """Listens until the stream ends and returns why. Only cancellation raises."""
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        call = rpc.InstanceStub(channel).Attach(_hello_and_silence(), metadata=token_metadata(token))
        try:
            async for frame in call:
                match frame.WhichOneof("frame"):
                    case "welcome":
                        welcomed(frame.welcome)
                    case "report":
                        reported(frame.report)
        except grpc.aio.AioRpcError as exc:
            return f"stream {exc.code().name.lower()}: {exc.details()}"[:200]
        return "stream closed by the instance"


__all__ = ["CHANNEL_OPTIONS", "observe"]
