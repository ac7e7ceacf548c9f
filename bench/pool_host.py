"""A pool node in a process of its own, full of blocks: the far side of `shoal bench pool`.

usage: python -m shoal.bench.pool_host SLOT_BYTES BLOCKS TOKEN SECRET NIXL   (NIXL: 0 or 1)
Block i has the key of the number i and bytes made of it. Prints {"address"} once it serves, runs until its standard
input closes.
"""

from __future__ import annotations

import json
import os
import sys

import numpy as np

from shoal.instance.pool.key import KEY_BYTES
from shoal.instance.pool.node import PoolNode, PoolSizes
from shoal.instance.pool.path_nixl import NixlAgent
from shoal.instance.pool.service import PoolService, serve_pool, stop_pool
from shoal.proto.errors import Unavailable

SEGMENT_BYTES = 32 << 20
SPARE_BLOCKS = 8  # the pool's own probe blocks
BATCH = 256


def block_key(number: int) -> bytes:
    return number.to_bytes(KEY_BYTES, "big")


def pool_sizes(slot_bytes: int, blocks: int) -> PoolSizes:
    slots = max(1, min(blocks, SEGMENT_BYTES // slot_bytes))
    return PoolSizes(slot_bytes, slots, -(-(blocks + SPARE_BLOCKS) // slots))


def fill(node: PoolNode, blocks: int) -> None:
    words = np.arange(node.sizes.slot_bytes // 8, dtype=np.uint64)
    for first in range(0, blocks, BATCH):
        keys = [block_key(number) for number in range(first, min(blocks, first + BATCH))]
        granted = node.reserve("bench", keys, wait_s=60.0)
        sealed = []
        for number, (key, place) in enumerate(granted.blocks, start=first):
            slot = node.segment(place).slot(place.index)
            np.add(words, np.uint64(number), out=slot.view(np.uint64))
            sealed.append((key, node.sealer.seal(key, [slot]), slot.nbytes))
        node.publish(granted.name, sealed)


def agent(name: str, wanted: bool) -> NixlAgent | None:
    try:
        return NixlAgent(name) if wanted else None
    except Unavailable:
        return None


def host(slot_bytes: int, blocks: int, token: str, secret: str, nixl: bool) -> None:
    node = PoolNode("bench", pool_sizes(slot_bytes, blocks), secret)
    service = PoolService(node, token, nixl=agent(f"bench-{os.getpid()}", nixl))
    try:
        fill(node, blocks)
        address, server = serve_pool(service, "127.0.0.1")
        print(json.dumps({"address": address}), flush=True)
        sys.stdin.read()
        stop_pool(service, server)
    finally:
        node.close()


if __name__ == "__main__":
    host(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5] == "1")


__all__ = ["agent", "block_key", "fill", "pool_sizes"]
