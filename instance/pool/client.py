"""Calls to a pool node, each with a deadline; and the two acts of an instance on its own node: load and save.

A pool that is gone, slow or full never raises past `load` and `save`: what was not loaded or stored is said in the
answer, and a block counts as loaded only if its checksum fits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc

from shoal.instance.auth import token_metadata
from shoal.instance.inner_tls import PLAIN, InnerTls
from shoal.instance.pool.arena import ArenaView, Bytes, copy_verified, write_block
from shoal.instance.pool.seal import Sealer
from shoal.instance.pool.slots import Place
from shoal.proto.errors import Unavailable
from shoal.proto.tracing import HEADER
from shoal.proto.v1 import pool_pb2 as pb
from shoal.proto.v1 import pool_pb2_grpc as rpc

CALL_S = 2.0
COPY_THREADS = 2
MAX_MESSAGE_BYTES = 256 << 20
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.http2.ping_timeout_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of each block, in order: there (loaded, or stored for certain) or not. `moved_bytes` were copied."""

    blocks: tuple[bool, ...]
    moved_bytes: int = 0


def place_of(block: pb.Block) -> Place:
    return Place(block.segment, block.index, block.generation)


class PoolClient:
    """One channel to one pool node. Thread-safe."""

    def __init__(self, address: str, token: str, tls: InnerTls = PLAIN) -> None:
        self.address, self._metadata = address, token_metadata(token)
        self.channel = tls.channel(address, OPTIONS)
        self.stub = rpc.PoolStub(self.channel)

    def call(self, method: str, ask: Any, *, wait_s: float = CALL_S, traceparent: str = "") -> Any:
        """Raises Unavailable: no answer in time, or no pool."""
        try:
            metadata = (*self._metadata, (HEADER, traceparent)) if traceparent else self._metadata
            return getattr(self.stub, method)(ask, timeout=wait_s, metadata=metadata)
        except grpc.RpcError as exc:
            raise Unavailable(f"pool {self.address}: {method}: {exc.code().name}: {exc.details()}") from None

    def fetch(self, name: str, indexes: Sequence[int], take: Callable[[pb.Pieces], None], *, wait_s: float) -> None:
        """Raises Unavailable."""
        stream = self.stub.Fetch(pb.FetchAsk(name=name, indexes=indexes), timeout=wait_s, metadata=self._metadata)
        try:
            for pieces in stream:
                take(pieces)
        except grpc.RpcError as exc:
            raise Unavailable(f"pool {self.address}: Fetch: {exc.code().name}: {exc.details()}") from None
        finally:
            stream.cancel()

    def close(self) -> None:
        self.channel.close()


class NodePool:
    """The pool of one's own node: bytes go through the mapped arena, words through the channel."""

    def __init__(self, client: PoolClient, sealer: Sealer, *, threads: int = COPY_THREADS) -> None:
        """Raises Unavailable. `threads` copy and hash at once; the calling thread is one of them."""
        self.client, self.sealer = client, sealer
        self._helpers = ThreadPoolExecutor(max(1, threads - 1), thread_name_prefix="pool-copy")
        self._threads = threads
        self.facts: pb.PoolFacts = client.call("Describe", pb.DescribeAsk())
        self.view = ArenaView(self.facts.prefixes, self.facts.segment_slots, self.facts.slot_bytes)

    def match(self, keys: Sequence[bytes]) -> int:
        return self.client.call("Match", pb.Run(keys=keys)).blocks

    def load(
        self, keys: Sequence[bytes], blocks: Sequence[Sequence[Bytes]], *, wait_s: float, traceparent: str = ""
    ) -> Moved:
        """Copies blocks into `blocks` (the buffers that make up each one) and verifies what arrived."""
        try:
            ask = pb.Run(keys=keys, wait_s=wait_s)
            grant = self.client.call("Lease", ask, wait_s=wait_s, traceparent=traceparent)
        except Unavailable:
            return Moved((False,) * len(keys))
        try:
            loaded = self.copy_verified(grant, blocks)
            for position, good in enumerate(loaded):
                loaded[position] = good or self._once_more(grant.blocks[position], blocks[position], grant.name)
        finally:
            self._let_go(grant.name)
        moved_bytes = sum(
            piece.nbytes for done, pieces in zip(loaded, blocks, strict=False) if done for piece in pieces
        )
        return Moved((*loaded, *[False] * (len(keys) - len(loaded))), moved_bytes)

    def copy_verified(self, grant: pb.Grant, blocks: Sequence[Sequence[Bytes]]) -> list[bool]:
        """Which of the leased blocks arrived as they were sealed."""
        jobs = list(zip(grant.blocks, blocks, strict=False))
        share = -(-len(jobs) // self._threads)
        parts = [jobs[first : first + share] for first in range(0, len(jobs), max(1, share))]
        others = [self._helpers.submit(self._copy_part, part) for part in parts[1:]]
        done = self._copy_part(parts[0]) if parts else []
        return [*done, *(good for other in others for good in other.result())]

    def _copy_part(self, jobs: Sequence[tuple[pb.Block, Sequence[Bytes]]]) -> list[bool]:
        return [self._copy(block, pieces) for block, pieces in jobs]

    def _once_more(self, block: pb.Block, pieces: Sequence[Bytes], lease: str) -> bool:
        """A drain may have moved it since; if not, it is damaged."""
        try:
            located = self.client.call("Locate", pb.Name(name=lease))
            now = next((one for one in located.blocks if one.key == block.key), None)
            if now is not None and place_of(now) != place_of(block) and self._copy(now, pieces):
                return True
            self.client.call("Damaged", pb.Run(keys=[block.key]))
        except Unavailable:
            pass  # it stays not loaded
        return False

    def _copy(self, block: pb.Block, pieces: Sequence[Bytes]) -> bool:
        try:
            segment = self.view.segment(block.segment)
        except Unavailable:
            return False
        return copy_verified(segment, place_of(block), block.key, pieces, self.sealer)

    def save(self, tenant: str, keys: Sequence[bytes], blocks: Sequence[Sequence[Bytes]], *, wait_s: float) -> Moved:
        """True for a block only once the pool has said that it is stored."""
        try:
            grant = self.client.call("Reserve", pb.Run(tenant=tenant, keys=keys, wait_s=wait_s), wait_s=wait_s)
            pieces = dict(zip(keys, blocks, strict=True))
            sealed = [self._write(block, pieces[block.key]) for block in grant.blocks]
            there = set(grant.stored)
            if sealed:
                there |= set(self.client.call("Publish", pb.PublishAsk(name=grant.name, blocks=sealed)).keys)
        except Unavailable:
            return Moved((False,) * len(keys))
        return Moved(tuple(key in there for key in keys), sum(one.length for one in sealed))

    def _write(self, block: pb.Block, pieces: Sequence[Bytes]) -> pb.Sealed:
        length = write_block(self.view.segment(block.segment), block.index, pieces)
        return pb.Sealed(key=block.key, seal=self.sealer.seal(block.key, pieces), length=length)

    def close(self) -> None:
        self._helpers.shutdown()
        self.client.close()

    def _let_go(self, name: str) -> None:
        with contextlib.suppress(Unavailable):  # it ends by its deadline
            self.client.call("Release", pb.Name(name=name))


__all__ = ["CALL_S", "OPTIONS", "Moved", "NodePool", "PoolClient", "place_of"]
