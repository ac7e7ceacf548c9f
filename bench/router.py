"""How long one placement takes: the production policy in a frontend's own view, on one core.

Before each decision the view is told something new (a report, the former decision's booking), and each request brings
its own hash objects, as from a client. The index alone is timed too, beside NVIDIA Dynamo's RadixTree where the
package `ai-dynamo-runtime` is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

import msgspec
from tqdm import tqdm

from shoal.bench.outcome import Outcome
from shoal.bench.stats import percentile
from shoal.router.contract import InstanceInfo, InstanceLoad, Placement, Role, RouteRequest
from shoal.router.foresight import Foresight
from shoal.router.output_lengths import OutputLengths
from shoal.router.place import place
from shoal.router.prefix_index import PrefixIndex
from shoal.router.profile import PROFILES, build_policy
from shoal.router.view import ClusterView

SHAPES = ((8, 64), (64, 64), (512, 64), (1000, 64), (64, 1024))  # instances x prompt blocks
BLOCK_SIZE = 16
CHAINS = 64
HELD_CHAINS = 8  # by each instance, the second half of each cut off at random
SIZED_BLOCKS = 100_000
MEASURES = ("decision_us_p50", "decision_us_p99", "book_us_p50", "index_us_p50")

Chain = tuple[bytes, ...]
Holding = list[tuple[int, Chain]]  # instance, blocks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--policy", default="prefix_least_work", choices=PROFILES)
    parser.add_argument("--decisions", type=int, default=5000, help="per shape")
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> Outcome:
    result: dict[str, Any] = {
        name: {} for name in ("decision_us_p50", "decision_us_p99", "book_us_p50", "index_us_p50")
    }
    theirs = _dynamo()
    result |= {"dynamo_index_us_p50": {} if theirs else "skipped: ai-dynamo-runtime is not installed"}
    for instances, blocks in tqdm(SHAPES, desc="shapes", disable=None):
        rng, shape = Random(args.seed), f"{instances}x{blocks}"
        chains = [_chain(rng, blocks) for _ in range(CHAINS)]
        holding = _holding(rng, instances, chains)
        decided, booked = _time_decisions(args.policy, instances, chains, holding, args.decisions, rng)
        result["decision_us_p50"][shape] = percentile(decided, 50)
        result["decision_us_p99"][shape] = percentile(decided, 99)
        result["book_us_p50"][shape] = percentile(booked, 50)
        asked = [rng.choice(chains) for _ in range(args.decisions)]
        result["index_us_p50"][shape] = _time_index(instances, holding, asked)
        if theirs:
            result["dynamo_index_us_p50"][shape] = _time_dynamo(theirs(), holding, asked)
    result["index_bytes_per_block"] = _bytes_per_block(args.seed)
    return Outcome({"policy": args.policy, "decisions": args.decisions} | result)


def _time_decisions(
    policy_name: str, instances: int, chains: Sequence[Chain], holding: Holding, count: int, rng: Random
) -> tuple[list[float], list[float]]:
    view, policy = _view(instances, holding, rng), build_policy(policy_name)
    decided, booked = [], []
    for number, request in enumerate(_requests(chains, count, rng)):
        view.observe(f"i{rng.randrange(instances)}", _load(rng), number / 1e5)
        start = time.perf_counter()
        placement = place(request, view, policy, number / 1e5, rng)
        middle = time.perf_counter()
        assert isinstance(placement, Placement)
        view.book(request, placement, number / 1e5)
        end = time.perf_counter()
        view.acknowledged(request.request_id)
        decided.append((middle - start) * 1e6)
        booked.append((end - middle) * 1e6)
    return decided, booked


def _view(instances: int, holding: Holding, rng: Random) -> ClusterView:
    view = ClusterView()
    view.foresight = _foresight(rng)
    for number in range(instances):
        view.join(InstanceInfo(f"i{number}", Role.MIXED, BLOCK_SIZE, 30_000, 1 << 20, 8192, 256))
        view.observe(f"i{number}", _load(rng), 0.0)
    for number, blocks in holding:
        view.block_changes(f"i{number}", "stored", blocks)
    return view


def _requests(chains: Sequence[Chain], count: int, rng: Random) -> Iterator[RouteRequest]:
    for number in range(count):
        hashes = tuple([bytes(bytearray(block)) for block in rng.choice(chains)])
        yield RouteRequest(f"r{number}", len(hashes) * BLOCK_SIZE + 7, 200, hashes)


def _foresight(rng: Random) -> Foresight:
    """As in a frontend that has served for a while: the look ahead at memory takes part in each decision."""
    lengths = OutputLengths()
    for _ in range(1000):
        lengths.ended(rng.randrange(1, 500))
    return lengths.foresee(Foresight())


def _load(rng: Random) -> InstanceLoad:
    return InstanceLoad(rng.randrange(60), rng.randrange(9), rng.randrange(9999), 0, rng.randrange(99999), 19000, 20.0)


def _chain(rng: Random, blocks: int) -> Chain:
    return tuple(hashlib.sha256(rng.randbytes(16)).digest() for _ in range(blocks))


def _holding(rng: Random, instances: int, chains: Sequence[Chain]) -> Holding:
    held = ((number, chain) for number in range(instances) for chain in rng.sample(chains, HELD_CHAINS))
    return [(number, chain[: rng.randint(len(chain) // 2, len(chain))]) for number, chain in held]


def _time_index(instances: int, holding: Holding, asked: Sequence[Chain]) -> float:
    index = PrefixIndex(1 << 17)
    for number in range(instances):
        index.join(str(number))
    for number, blocks in holding:
        index.stored(str(number), blocks)
    return _median_us(index.depths, asked)


def _median_us(match: Callable[[Any], object], asked: Sequence[Any]) -> float:
    spent_us = []
    for chain in asked:
        start = time.perf_counter()
        match(chain)
        spent_us.append((time.perf_counter() - start) * 1e6)
    return percentile(spent_us, 50)


def _bytes_per_block(seed: int) -> float:
    """Python's own count, hashes included, of blocks that one of 64 instances holds."""
    rng, index = Random(seed), PrefixIndex(1 << 17)
    for number in range(64):
        index.join(str(number))
    tracemalloc.start()
    for number in range(64):
        index.stored(str(number), [rng.randbytes(32) for _ in range(SIZED_BLOCKS // 64)])
    size_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size_bytes / len(index)


def _dynamo() -> Callable[[], Any] | None:
    try:
        from dynamo._core import RadixTree  # noqa: PLC0415 - optional and heavy
    except ImportError:
        return None
    return RadixTree


def _time_dynamo(tree: Any, holding: Holding, asked: Sequence[Chain]) -> float:
    """Its block hashes are 64-bit numbers; its events are JSON."""
    for event, (number, chain) in enumerate(holding):
        blocks = [{"block_hash": block, "tokens_hash": block} for block in _numbers(chain)]
        stored = {"event_id": event, "data": {"stored": {"parent_hash": None, "blocks": blocks}}}
        tree.apply_event(number, msgspec.json.encode(stored))
    return _median_us(lambda chain: tree.find_matches(chain).scores, [_numbers(chain) for chain in asked])


def _numbers(chain: Chain) -> list[int]:
    return [int.from_bytes(block[:8], "little") for block in chain]


__all__ = ["add_arguments", "run"]
