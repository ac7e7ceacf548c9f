"""Round robin, least work, and least work with live migration, at shares of the fleet's capacity.

Lengths are heavy-tailed and arrivals come in bursts; KV memory is what is short, as with large models. Fake engines
wait their modelled step time and speak the real protocol (--fleet fake:N, given as often as wanted). *Capacity* is the
highest rate at which least work keeps 95 % of the requests within the SLO, found by bisection. Every policy gets the
same requests at the same times.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.bench import stats
from shoal.bench.arrivals import Gamma, arrival_times
from shoal.bench.direct_frontend import lost
from shoal.bench.driver import drive
from shoal.bench.local_cluster import VOCABULARY, LocalCluster, fake_config
from shoal.bench.outcome import Outcome
from shoal.bench.record import End, Record
from shoal.bench.report import plot_bars
from shoal.bench.summary import Slo
from shoal.bench.workload import LoadRequest, LogNormalLength, PromptMaker, RequestClass, build_requests, synthetic_rows
from shoal.proto.config import ClusterConfig, MigrationConfig
from shoal.proto.errors import InvalidArgument

POLICIES = {"round_robin": False, "least_work": False, "least_work+migration": True}
MET_SHARE = 0.95
BISECTIONS, PROBE_S = 4, 8.0
DRAIN_S = 60.0  # for what is under way when the last request was sent
FAKE = {"a_ms": 30.0, "total_blocks": 256}
BLOCK_TOKENS = 32
OUTPUT_CAP = 384


@dataclass(frozen=True, slots=True)
class Load:
    """A workload at a rate. `sigma` of the logarithm of both lengths."""

    input_mean: int
    output_mean: int
    sigma: float
    cv: float
    input_cap: int
    output_cap: int
    classes: tuple[RequestClass, ...] = (RequestClass(),)

    def requests(self, rate_rps: float, seconds: float, seed: int) -> list[LoadRequest]:
        rng = random.Random(seed)
        times = arrival_times(Gamma(self.cv), rate_rps, max(2, round(rate_rps * seconds)), rng)
        inputs = LogNormalLength(self.input_mean, self.sigma, self.input_cap)
        outputs = LogNormalLength(self.output_mean, self.sigma, self.output_cap)
        return build_requests(synthetic_rows(times, inputs, outputs, rng), rng, classes=self.classes)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fleet", action="append", metavar="fake:N", help="default: fake:4")
    parser.add_argument("--shares", default="0.5,0.85", help="of capacity")
    parser.add_argument("--seconds", type=float, default=14.0, help="of arrivals, per policy and share")
    parser.add_argument("--rate", type=float, help="take this as the capacity, in requests per second and instance")
    parser.add_argument("--input-tokens", type=int, default=320)
    parser.add_argument("--output-tokens", type=int, default=96)
    parser.add_argument("--sigma", type=float, default=1.2)
    parser.add_argument("--cv", type=float, default=3.0, help="of the gaps between arrivals")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    parser.add_argument("--seed", type=int, default=0)


def fleet_of(text: str) -> int:
    kind, _, count = text.partition(":")
    if kind != "fake" or not count.isdigit() or int(count) < 2:
        raise InvalidArgument("fleet", limit="fake:N with N at least 2", given=text)
    return int(count)


class FakeFleet:
    """Owns the cluster's switch: migration on or off, and one new frontend per run."""

    def __init__(self, cluster: LocalCluster, load: Load, seed: int) -> None:
        self.cluster, self.load, self.seed = cluster, load, seed
        self.slo = slo_of(cluster.config)

    async def run(self, policy: str, rate_rps: float, seconds: float, seed: int) -> dict[str, Any]:
        planner = self.cluster.controller.planner
        moves_before = len(planner.ended)
        planner.rules = MigrationConfig(enabled=POLICIES[policy], **RULES)
        records = await self.drive(policy.split("+")[0], self.load.requests(rate_rps, seconds, seed), seed)
        moves = list(planner.ended)[moves_before:]
        return {"policy": policy, "rate_rps": rate_rps, **self.score(records, [move.outcome for move in moves])}

    async def drive(self, policy: str, requests: Sequence[LoadRequest], seed: int) -> list[Record]:
        """Through a frontend of its own."""
        frontend = await self.cluster.frontend(policy, PromptMaker(seed, VOCABULARY))
        run = await drive(frontend, requests, timeout_s=requests[-1].due_s + DRAIN_S)
        await frontend.stop()
        return run.records

    def score(self, records: Sequence[Record], outcomes: Sequence[str]) -> dict[str, Any]:
        return {**score(records, self.slo), "moves": {name: outcomes.count(name) for name in sorted(set(outcomes))}}


RULES: dict[str, Any] = {"headroom_tokens": 0}


def slo_of(config: ClusterConfig) -> Slo:
    fake = config.fake
    return Slo(fake.b_ms, fake.a_ms + fake.d_ms)


def score(records: Sequence[Record], slo: Slo) -> dict[str, Any]:
    """Pure. `preemption_loss_ms_mean`: what a request lost in gaps of more than ten median gaps."""
    done = [record for record in records if record.end is End.COMPLETED]
    series = {
        "ttft_ms": [record.ttft_s * 1e3 for record in done],
        "tpot_ms": [tpot * 1e3 for record in done if (tpot := record.tpot_s) is not None],
        "e2e_ms": [record.latency_s * 1e3 for record in done],
    }
    gap_s = stats.median([gap for record in done for gap in record.gaps_s])
    losses = [sum(gap for gap in record.gaps_s if gap > 10 * gap_s) * 1e3 for record in done]
    return {
        "requests": len(records),
        "failed": lost(records),
        "slo_met_share": sum(slo.met(record) for record in done) / max(1, len(records)),
        **{f"{name}_p{p}": stats.percentile(values, p) for name, values in series.items() for p in (50, 99)},
        "preemption_loss_ms_mean": stats.mean(losses),
    }


async def capacity_rps(fleet: FakeFleet, instances: int) -> float:
    """By bisection over least work; the bounds are one and twelve requests per second and instance."""
    low, high = 0.5 * instances, 12.0 * instances
    for step in range(BISECTIONS):
        middle = (low * high) ** 0.5
        row = await fleet.run("least_work", middle, PROBE_S, seed=1000 + step)
        low, high = (middle, high) if row["slo_met_share"] >= MET_SHARE else (low, middle)
    return low


async def _fake_rows(args: argparse.Namespace, count: int, folder: Path) -> list[dict[str, Any]]:
    room = FAKE["total_blocks"] * BLOCK_TOKENS
    load = Load(args.input_tokens, args.output_tokens, args.sigma, args.cv, int(room * 0.6), OUTPUT_CAP)
    config = fake_config(count, engine={"max_model_len": int(room), "block_size": BLOCK_TOKENS}, fake=FAKE)
    async with LocalCluster(config, folder, seed=args.seed) as cluster:
        fleet = FakeFleet(cluster, load, args.seed)
        capacity = args.rate * count if args.rate else await capacity_rps(fleet, count)
        rows = []
        for share in map(float, args.shares.split(",")):
            for policy in POLICIES:
                row = await fleet.run(policy, share * capacity, args.seconds, args.seed)
                rows.append({"fleet": f"fake:{count}", "capacity_rps": capacity, "share": share, **row})
        return rows


def gains(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per fleet and share: p99 TTFT of the others over that of least work with migration."""
    found = []
    for fleet, share in dict.fromkeys((row["fleet"], row["share"]) for row in rows):
        p99 = {row["policy"]: row["ttft_ms_p99"] for row in rows if (row["fleet"], row["share"]) == (fleet, share)}
        ours = max(p99["least_work+migration"], 1e-9)
        found.append(
            {
                "fleet": fleet,
                "share": share,
                "over_round_robin": p99["round_robin"] / ours,
                "over_least_work": p99["least_work"] / ours,
            }
        )
    return found


def run(args: argparse.Namespace) -> Outcome:
    began_s = time.monotonic()
    rows: list[dict[str, Any]] = []
    for count in map(fleet_of, args.fleet or ["fake:4"]):
        with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
            rows += asyncio.run(_fake_rows(args, count, Path(folder)))
    if args.plot:
        plot_bars(rows, "ttft_ms_p99", args.plot)
    return Outcome({"gains": gains(rows), "rows": rows, "seconds": time.monotonic() - began_s})


__all__ = ["FakeFleet", "Load", "add_arguments", "capacity_rps", "fleet_of", "gains", "run", "score"]
