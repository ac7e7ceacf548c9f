"""What a tenth of the requests gains from the high class, at a share of capacity: TTFT on an idle cluster, among all
others without priorities, and with them.

Fake engines with a chunk budget of 256 tokens over the real protocol. The same high requests come at the same times in
all three runs. Two things isolate them: engines start them first, and the planner moves those that wait.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from shoal.bench import stats
from shoal.bench.direct_frontend import lost
from shoal.bench.local_cluster import LocalCluster, fake_config
from shoal.bench.outcome import Outcome
from shoal.bench.rebalance import FakeFleet, Load, capacity_rps
from shoal.bench.record import Record
from shoal.bench.workload import LoadRequest, RequestClass
from shoal.proto.config import MigrationConfig

HIGH = RequestClass("high", 0.1, priority=-1)
CHUNK_TOKENS = 256
INPUT_CAP, OUTPUT_CAP = 4096, 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--instances", type=int, default=4)
    parser.add_argument("--load", type=float, default=0.7, help="share of capacity")
    parser.add_argument("--rate", type=float, help="take this as the capacity, in requests per second and instance")
    parser.add_argument("--seconds", type=float, default=40.0, help="of arrivals, per run")
    parser.add_argument("--input-tokens", type=int, default=512)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--sigma", type=float, default=0.8)
    parser.add_argument("--cv", type=float, default=3.0, help="of the gaps between arrivals")
    parser.add_argument("--seed", type=int, default=0)


def settings(requests: Sequence[LoadRequest]) -> dict[str, list[LoadRequest]]:
    """The same high requests: alone, as anybody's, and as what they are."""
    return {
        "idle": [one for one in requests if one.kind.name == HIGH.name],
        "without": [replace(one, kind=replace(one.kind, priority=0)) for one in requests],
        "with": list(requests),
    }


def score(name: str, records: Sequence[Record]) -> dict[str, Any]:
    """Pure. TTFT in ms of each class."""
    row: dict[str, Any] = {"setting": name, "requests": len(records), "failed": lost(records)}
    for kind in sorted({record.request.kind.name for record in records}):
        ttft_ms = [record.ttft_s * 1e3 for record in records if record.request.kind.name == kind and record.chunk_s]
        row[f"{kind}_requests"] = len(ttft_ms)
        row |= {f"{kind}_ttft_ms_p{p}": stats.percentile(ttft_ms, p) for p in (50, 99)}
    return row


async def _run(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    engine = {"max_num_batched_tokens": CHUNK_TOKENS}
    config = fake_config(args.instances, engine=engine, fake={"a_ms": 12.0})
    classes = (HIGH, RequestClass("normal", 0.9))
    load = Load(args.input_tokens, args.output_tokens, args.sigma, args.cv, INPUT_CAP, OUTPUT_CAP, classes)
    async with LocalCluster(config, folder, seed=args.seed) as cluster:
        fleet = FakeFleet(cluster, replace(load, classes=(RequestClass(),)), args.seed)
        capacity = args.rate * args.instances if args.rate else await capacity_rps(fleet, args.instances)
        rows = []
        for name, requests in settings(load.requests(args.load * capacity, args.seconds, args.seed)).items():
            cluster.controller.planner.rules = MigrationConfig(enabled=name == "with")
            rows.append(score(name, await fleet.drive("least_work", requests, args.seed)))
    idle, without, with_ = (row["high_ttft_ms_p99"] for row in rows)
    return {
        "capacity_rps": capacity,
        "over_idle": with_ / idle,
        "better_than_without": without / with_,
        "rows": rows,
    }


def run(args: argparse.Namespace) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        return Outcome(asyncio.run(_run(args, Path(folder))))


__all__ = ["add_arguments", "run", "score", "settings"]
