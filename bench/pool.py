"""The KV pool: how fast blocks come out of it, next to plain memcpy in the same run, and how fast its index answers.

A pool node in another process holds a working set of at least four times the last-level cache. Each call copies --slots
random blocks into random places of a buffer of the same size; calls of plain memcpy, of the transport alone and of the
transport with its checksums take turns, and each ratio is the median over such triples. `ratio_to_memcpy_256k` and
`ratio_verified_256k` are those of the arena at 256 KiB. Leases are taken outside the timed copies; `lease_ms` is their
cost per call.

`lookup_us_p50`: key derivation and match of a run of 16 blocks in an index of so many. `bytes_of_metadata_per_block`:
all that the pool's books hold in memory for one block, by tracemalloc, at the largest of those sizes.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import mmap
import random
import secrets
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from tqdm import tqdm

from shoal.bench.hosts import Host
from shoal.bench.outcome import Outcome
from shoal.bench.pool_host import agent, block_key
from shoal.bench.report import plot_pool
from shoal.bench.stats import median
from shoal.instance.pool.arena import Bytes
from shoal.instance.pool.client import COPY_THREADS, NodePool, PoolClient
from shoal.instance.pool.key import HASH_BYTES, Space, block_keys
from shoal.instance.pool.ledger import Ledger
from shoal.instance.pool.path_arena import ArenaPath
from shoal.instance.pool.path_nixl import NixlAgent, NixlPath
from shoal.instance.pool.path_stream import StreamPath
from shoal.instance.pool.seal import Header, Sealer
from shoal.instance.pool.slots import Tier
from shoal.instance.pool.transport import Path as Transport
from shoal.proto.errors import InvalidArgument, ServerFault, Unavailable
from shoal.proto.v1 import pool_pb2 as pb

TRANSPORTS = ["arena", "stream", "nixl"]  # in this order, see measure_path
RUN = 16
LOOKUPS = 4000
START_S = 120.0
CALL_S = 30.0
CACHE_FILE = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", type=int, nargs="+", default=[4 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20])
    parser.add_argument("--transports", nargs="+", choices=TRANSPORTS, default=TRANSPORTS)
    parser.add_argument("--slots", type=int, default=64, help="blocks per call")
    parser.add_argument("--working-set-mib", type=int, help="default: four times the last-level cache")
    parser.add_argument("--seconds", type=float, default=2.0, help="per transport and size")
    parser.add_argument("--index-blocks", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a picture of all cells")
    parser.add_argument("--seed", type=int, default=0)


def working_set_bytes(args: argparse.Namespace) -> int:
    if args.working_set_mib:
        return args.working_set_mib << 20
    text = CACHE_FILE.read_text().strip() if CACHE_FILE.exists() else "32768K"
    return 4 * int(text.rstrip("KM")) << (20 if text.endswith("M") else 10)


# -- transports


class Far:
    """The pool node in its process, and this process's means to read from it, for one block size."""

    def __init__(self, args: argparse.Namespace, slot_bytes: int, nixl: NixlAgent | None) -> None:
        self.blocks = max(args.slots, working_set_bytes(args) // slot_bytes)
        self.slot_bytes, self.nixl = slot_bytes, nixl
        self.token, self.sealer = secrets.token_hex(16), Sealer("bench")
        self.buffer, self.plain = (touched(self.blocks * slot_bytes) for _ in range(2))

    def host(self, folder: Path) -> Host:
        words = [str(self.slot_bytes), str(self.blocks), self.token, "bench", str(int(self.nixl is not None))]
        return Host("shoal.bench.pool_host", words, folder / f"pool-{self.slot_bytes}.log", {})

    def connect(self, address: str) -> None:
        self.client = PoolClient(address, self.token)
        self.near = NodePool(self.client, self.sealer)

    def describe(self) -> pb.PoolFacts:
        return self.client.call("Describe", pb.DescribeAsk())

    def open(self, name: str) -> Transport:
        """Raises Unavailable where it is not offered here."""
        match name:
            case "arena":
                return ArenaPath(self.describe())
            case "nixl":
                return NixlPath(self.nixl, self.describe)
        return StreamPath(self.client)

    def part(self, memory: Bytes, number: int) -> Bytes:
        return memory[number * self.slot_bytes : (number + 1) * self.slot_bytes]

    def lease(self, numbers: Sequence[int]) -> pb.Grant:
        grant = self.client.call("Lease", pb.Run(keys=[block_key(n) for n in numbers], wait_s=CALL_S))
        if len(grant.blocks) != len(numbers):
            raise ServerFault(f"the pool has {len(grant.blocks)} of {len(numbers)} blocks")
        return grant


def touched(size_bytes: int) -> Bytes:
    """Memory that begins with a page, as slots and KV tensors do: unequal alignments make a copy 3 times slower."""
    memory = np.frombuffer(mmap.mmap(-1, size_bytes), dtype=np.uint8)
    memory[:] = 1
    return memory


def timed_ms(act: Callable[[], Any]) -> float:
    start_s = time.perf_counter()
    act()
    return 1e3 * (time.perf_counter() - start_s)


def triples(far: Far, path: Transport, args: argparse.Namespace) -> Iterator[tuple[float, float, float, float]]:
    """(memcpy, transport, transport with checksums, lease) in ms, call by call, for --seconds."""
    rng, end_s = random.Random(args.seed), time.perf_counter() + args.seconds
    rounds = 0
    while time.perf_counter() < end_s or rounds < 3:
        rounds += 1
        sources, targets = (rng.sample(range(far.blocks), args.slots) for _ in range(2))
        into = [far.part(far.buffer, number) for number in targets]
        plain = [far.part(far.plain, number) for number in sources]
        start_s = time.perf_counter()
        grant = far.lease(sources)
        lease_ms = 1e3 * (time.perf_counter() - start_s)
        memcpy_ms = timed_ms(lambda: [np.copyto(b, a) for a, b in zip(plain, into, strict=True)])  # noqa: B023 - at once
        bare_ms = timed_ms(lambda: path.read(grant, into, wait_s=CALL_S))  # noqa: B023 - at once
        verified_ms = timed_ms(lambda: read_verified(far, path, grant, into))  # noqa: B023 - at once
        lease_ms += timed_ms(lambda: far.client.call("Release", pb.Name(name=grant.name)))  # noqa: B023 - at once
        yield memcpy_ms, bare_ms, verified_ms, lease_ms


def read_verified(far: Far, path: Transport, grant: pb.Grant, into: Sequence[Bytes]) -> None:
    """As the product reads: on its own node by two threads, block by block; else all, then the checksums."""
    if path.name == "arena":
        fits = far.near.copy_verified(grant, [[buffer] for buffer in into])
    else:
        path.read(grant, into, wait_s=CALL_S)
        fits = [
            far.sealer.fits(Header(one.key, one.seal, one.generation, one.length), one.key, one.generation, [buffer])
            for one, buffer in zip(grant.blocks, into, strict=True)
        ]
    if not all(fits):
        raise ServerFault(f"{path.name}: a block came damaged")


def cell(far: Far, path: Transport, args: argparse.Namespace) -> dict[str, Any]:
    path.read(
        grant := far.lease(range(args.slots)), [far.part(far.buffer, n) for n in range(args.slots)], wait_s=CALL_S
    )
    far.client.call("Release", pb.Name(name=grant.name))
    memcpy_ms, bare_ms, verified_ms, lease_ms = zip(*triples(far, path, args), strict=True)
    gib = args.slots * far.slot_bytes / 2**30
    return {
        "path": path.name,
        "bytes": far.slot_bytes,
        "calls": len(bare_ms),
        "gib_per_s": gib / (median(bare_ms) / 1e3),
        "verified_gib_per_s": gib / (median(verified_ms) / 1e3),
        "memcpy_gib_per_s": gib / (median(memcpy_ms) / 1e3),
        "ratio_to_memcpy": median([plain / own for plain, own in zip(memcpy_ms, bare_ms, strict=True)]),
        "ratio_verified": median([plain / own for plain, own in zip(memcpy_ms, verified_ms, strict=True)]),
        "lease_ms": median(lease_ms),
    }


async def measure_path(args: argparse.Namespace, name: str, folder: Path) -> list[dict[str, Any]]:
    """NIXL's progress threads spin: no other transport is measured while they exist, so it should come last."""
    nixl, cells = agent(f"near-{secrets.token_hex(4)}", name == "nixl"), []
    for slot_bytes in tqdm(args.sizes, desc=name, leave=False):
        far = Far(args, slot_bytes, nixl)
        async with far.host(folder) as process:
            far.connect((await process.said(START_S))["address"])
            if nixl is not None:
                nixl.register(slot_bytes, SimpleNamespace(bytes=far.buffer))
            try:
                cells.append(await asyncio.to_thread(lambda: cell(far, far.open(name), args)))  # noqa: B023 - at once
            except Unavailable as exc:
                tqdm.write(f"{name} at {slot_bytes} bytes: not offered: {exc}", file=sys.stderr)
            if nixl is not None:
                nixl.deregister(slot_bytes)
            far.near.close()
    return cells


# -- index


def measure_index(blocks: int, rng: random.Random) -> tuple[float, float]:
    """(p50 of a look-up in us, bytes of metadata per block)."""
    hashes = [rng.randbytes(HASH_BYTES) for _ in range(blocks)]
    root = Space("model", "weights", "float32", "layout", 32, 0, 1, "seed").root("tenant")
    gc.collect()
    tracemalloc.start()
    books = Ledger(1024)
    while books.slots.capacity[Tier.MEMORY] < blocks:
        books.slots.add_segment(Tier.MEMORY)
    for first in range(0, blocks, RUN):
        keys = block_keys(root, hashes[first : first + RUN])
        books.reserve("w", "tenant", keys, deadline_s=1.0)
        books.publish("w", keys)
    held_bytes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    took_us = []
    for _ in range(LOOKUPS):
        first = rng.randrange(blocks - RUN)
        run = hashes[first : first + RUN]
        start_s = time.perf_counter()
        found = books.match(block_keys(root, run))
        took_us.append(1e6 * (time.perf_counter() - start_s))
        if found != RUN:
            raise ServerFault(f"the index found {found} of {RUN} blocks")
    return median(took_us), held_bytes / blocks


# -- all


def check(args: argparse.Namespace) -> None:
    if min(args.sizes) < 64 or any(size % 64 for size in args.sizes):
        raise InvalidArgument("sizes", limit="multiples of 64", given=args.sizes)
    if args.slots < 1 or args.seconds <= 0 or min(args.index_blocks) <= RUN:
        raise InvalidArgument("slots, seconds, index_blocks", limit=f"above 0, 0, {RUN}", given=vars(args))


def score(cells: Sequence[dict[str, Any]], index: dict[int, tuple[float, float]], set_bytes: int) -> dict[str, Any]:
    arena = {one["bytes"]: one for one in cells if one["path"] == "arena"}
    at_256k = arena.get(256 << 10, {})
    return {
        "ratio_to_memcpy_256k": at_256k.get("ratio_to_memcpy"),
        "ratio_verified_256k": at_256k.get("ratio_verified"),
        "lookup_us_p50": {str(blocks): lookup_us for blocks, (lookup_us, _) in index.items()},
        "bytes_of_metadata_per_block": index[max(index)][1],
        "working_set_bytes": set_bytes,
        "copy_threads": COPY_THREADS,
        "cells": list(cells),
    }


async def measure(args: argparse.Namespace) -> dict[str, Any]:
    rng, cells = random.Random(args.seed), []
    index = {blocks: measure_index(blocks, rng) for blocks in tqdm(args.index_blocks, desc="index", leave=False)}
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        for name in sorted(args.transports, key=TRANSPORTS.index):
            cells += await measure_path(args, name, Path(folder))
    return score(cells, index, working_set_bytes(args))


def run(args: argparse.Namespace) -> Outcome:
    check(args)
    result = asyncio.run(measure(args))
    if args.plot:
        plot_pool(result["cells"], args.plot)
    return Outcome(result)


__all__ = ["add_arguments", "check", "measure_index", "run", "score"]
