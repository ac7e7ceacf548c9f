"""Pool nodes in this process, and what tests put into them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shoal.instance.pool.arena import Bytes
from shoal.instance.pool.client import NodePool, PoolClient
from shoal.instance.pool.node import PoolNode, PoolSizes
from shoal.instance.pool.path_nixl import NixlAgent
from shoal.instance.pool.peer import PATHS
from shoal.instance.pool.seal import Sealer
from shoal.instance.pool.service import PoolService, serve_pool, stop_pool

SECRET, TOKEN = "a secret", "a token"
SLOT_BYTES = 8192


def key(number: int, root: bytes = b"r" * 16) -> bytes:
    return root + number.to_bytes(32, "big")


def keys(numbers) -> list[bytes]:
    return [key(number) for number in numbers]


def block(number: int, slot_bytes: int = SLOT_BYTES) -> Bytes:
    """The one content of block `number`."""
    return np.frombuffer(random.Random(number).randbytes(slot_bytes), dtype=np.uint8)


def blank(slot_bytes: int = SLOT_BYTES) -> Bytes:
    return np.zeros(slot_bytes, dtype=np.uint8)


def sizes(
    memory: int = 4, *, slots: int = 8, disk: int = 0, folder: Path | None = None, slot_bytes=SLOT_BYTES
) -> PoolSizes:
    return PoolSizes(slot_bytes, slots, memory, disk, folder)


@dataclass
class Served:
    node: PoolNode
    service: PoolService
    server: Any
    address: str
    pool: NodePool

    def save(self, numbers, tenant: str = "a") -> list[bool]:
        return list(self.pool.save(tenant, keys(numbers), [[block(n)] for n in numbers], wait_s=5.0).blocks)

    def load(self, numbers) -> list[bool]:
        """Which blocks came; whatever came is right, or this raises."""
        into = [blank() for _ in numbers]
        came = self.pool.load(keys(numbers), [[buffer] for buffer in into], wait_s=5.0).blocks
        for number, buffer, good in zip(numbers, into, came, strict=True):
            assert not good or np.array_equal(buffer, block(number)), f"block {number} came wrong"
        return list(came)


@contextmanager
def serving(
    node_id: str = "n1",
    made: PoolSizes | None = None,
    *,
    nixl: NixlAgent | None = None,
    offered=PATHS,
    **more,
) -> Iterator[Served]:
    node = PoolNode(node_id, made or sizes(), SECRET, **more)
    service = PoolService(node, TOKEN, nixl=nixl, offered=offered)
    address, server = serve_pool(service, "127.0.0.1")
    pool = NodePool(PoolClient(address, TOKEN), Sealer(SECRET))
    try:
        yield Served(node, service, server, address, pool)
    finally:
        pool.close()
        stop_pool(service, server)


def introduce(*pools: Served) -> None:
    addresses = {pool.node.node_id: pool.address for pool in pools}
    for pool in pools:
        pool.service.set_peers(addresses)
