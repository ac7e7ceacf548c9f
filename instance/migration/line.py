"""The source's end of one Transfer stream: one parcel, one receipt. And what makes such a line to a peer's address."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Protocol

import grpc

from shoal.instance.auth import token_metadata
from shoal.instance.inner_tls import PLAIN, InnerTls
from shoal.proto.errors import BadMessage
from shoal.proto.seal import Sealer, SealReader
from shoal.proto.v1 import instance_pb2 as pb
from shoal.proto.v1 import instance_pb2_grpc as rpc

MAX_MESSAGE_BYTES = 64 << 20
CHANNEL_OPTIONS = (
    ("grpc.http2.ping_timeout_ms", 1000),
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.use_local_subchannel_pool", 1),
)


class LineLost(Exception):
    """The stream ended, or what came on it makes no sense. The words are for people."""


class Line(Protocol):
    async def exchange(self, parcel: pb.Parcel) -> pb.Receipt:
        """Raises LineLost."""

    async def close(self) -> None:
        """The stream ends; the peer hears that at once."""


Dial = Callable[[str], Line]


class GrpcLine:
    """Owns a channel of its own, so that a slow transfer delays nothing else."""

    def __init__(self, address: str, token: str, tls: InnerTls = PLAIN) -> None:
        self._sealer, self._seals = Sealer(), SealReader()
        self._channel: Any = tls.aio_channel(address, CHANNEL_OPTIONS)
        self._call: Any = rpc.InstanceStub(self._channel).Transfer(metadata=token_metadata(token))

    async def exchange(self, parcel: pb.Parcel) -> pb.Receipt:
        try:
            self._sealer.seal(parcel)
            await self._call.write(parcel)
            receipt = await self._call.read()
            if not isinstance(receipt, pb.Receipt):
                raise LineLost("the target ended the stream")
            self._seals.check(receipt)
        except grpc.aio.AioRpcError as exc:
            raise LineLost(f"{exc.code().name.lower()}: {exc.details()}"[:200]) from None
        except (BadMessage, asyncio.InvalidStateError) as exc:
            raise LineLost(str(exc)[:200]) from None
        return receipt

    async def close(self) -> None:
        call, channel, self._call, self._channel = self._call, self._channel, None, None
        if channel is not None:
            call.cancel()
            with contextlib.suppress(Exception):
                await channel.close()


__all__ = ["Dial", "GrpcLine", "Line", "LineLost"]
