"""Blocks as a gRPC stream: slow, and there wherever the peer answers at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shoal.instance.pool.arena import Bytes
from shoal.instance.pool.client import PoolClient
from shoal.proto.errors import Unavailable
from shoal.proto.v1 import pool_pb2 as pb


class StreamPath:
    name = "stream"

    def __init__(self, client: PoolClient) -> None:
        self.client = client

    def read(self, grant: pb.Grant, into: Sequence[Bytes], *, wait_s: float) -> None:
        filled = 0

        def take(pieces: pb.Pieces) -> None:
            nonlocal filled
            buffers = into[filled : filled + pieces.blocks]
            data, at = np.frombuffer(pieces.data, dtype=np.uint8), 0
            if data.nbytes != sum(buffer.nbytes for buffer in buffers):
                raise Unavailable(f"pool {self.client.address}: Fetch: {data.nbytes} bytes of {pieces.blocks} blocks")
            for buffer in buffers:
                np.copyto(buffer, data[at : at + buffer.nbytes])
                at += buffer.nbytes
            filled += len(buffers)

        self.client.fetch(grant.name, range(len(into)), take, wait_s=wait_s)
        if filled != len(into):
            raise Unavailable(f"pool {self.client.address}: Fetch: {filled} of {len(into)} blocks came")

    def close(self) -> None:
        """The channel is the client's."""


__all__ = ["StreamPath"]
