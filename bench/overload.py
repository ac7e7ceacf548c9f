"""More than the cluster can do: how much of the best goodput is left, and what the others hear.

Real frontend, real HTTP, fake engines, open-loop Poisson arrivals. Capacity is the highest rate at which 95 % of all
requests meet the SLO, by bisection; the peak is the best goodput of any of those runs. Then --factor times capacity is
asked for. Each request names its deadline, a little short of the SLO's time to first token, as a client that means it
would. The batch is bounded (--slots) so that a full one keeps the SLO's time per token, which is the operator's part.

`goodput_share`: goodput under overload over the peak. `refused_badly`: refusals other than a 429 or 503 with
Retry-After. `waited_past_deadline`: requests that heard neither a token nor a refusal within their deadline and
SLACK_S, a tick of the frontend's clock and the way to the client.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.bench.arrivals import Poisson, arrival_times
from shoal.bench.driver import drive
from shoal.bench.fanin import VOCABULARY, Fleet
from shoal.bench.http_client import HttpClient, HttpTarget
from shoal.bench.local_cluster import fake_config
from shoal.bench.outcome import Outcome
from shoal.bench.record import End, Record
from shoal.bench.summary import Slo
from shoal.bench.under_test import MODEL_NAME
from shoal.bench.workload import LoadRequest, PromptMaker
from shoal.proto.config import ClusterConfig
from shoal.proto.errors import InvalidArgument

MET = 0.95
DEADLINE_SHARE = 0.8  # of the SLO's time to first token
SLACK_S = 0.15
REFUSALS = ("http_429", "http_503")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--instances", type=int, default=2)
    parser.add_argument("--factor", type=float, default=3.0, help="times capacity")
    parser.add_argument("--seconds", type=float, default=12.0, help="of arrivals that count, per run")
    parser.add_argument("--warmup", type=float, default=4.0, help="seconds of arrivals before those")
    parser.add_argument("--halvings", type=int, default=4, help="of the interval that holds the capacity")
    parser.add_argument("--slots", type=int, default=16, help="running requests per instance")
    parser.add_argument("--step-ms", type=float, default=20.0, help="of a lone decode step")
    parser.add_argument("--input-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=48)
    parser.add_argument("--start-timeout", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=0)


def config_of(args: argparse.Namespace) -> ClusterConfig:
    return fake_config(
        args.instances,
        engine={"max_num_seqs": args.slots, "dtype": "float32"},
        fake={"a_ms": args.step_ms},
        http_port=0,
        grpc_port=0,
    )


@dataclass(frozen=True, slots=True)
class Run:
    """One rate. `records` are those due after the warm-up, within `seconds`."""

    rate: float
    seconds: float
    records: Sequence[Record]
    slo: Slo
    deadline_s: float

    @property
    def met(self) -> int:
        return sum(one.end is End.COMPLETED and self.slo.met(one) for one in self.records)

    @property
    def goodput(self) -> float:
        return self.met / self.seconds

    @property
    def met_share(self) -> float:
        return self.met / max(1, len(self.records))

    def row(self) -> dict[str, Any]:
        kinds = [one.error_kind for one in self.records if one.error_kind]
        refused = [one for one in self.records if one.end is End.FAILED]
        waits_s = [(one.chunk_s[0] if one.chunk_s else one.finished_s) - one.sent_s for one in self.records]
        return {
            "rate": self.rate,
            "requests": len(self.records),
            "goodput": self.goodput,
            "met_share": self.met_share,
            "refused": len(refused),
            "refused_badly": sum(one.error_kind not in REFUSALS or one.retry_after_s is None for one in refused),
            "errors_by_kind": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
            "waited_past_deadline": sum(wait_s > self.deadline_s + SLACK_S for wait_s in waits_s),
            "longest_wait_s": max(waits_s, default=0.0),
            "lateness_s": max((one.lateness_s for one in self.records), default=0.0),
        }


class Bench:
    """Asks one frontend, one rate at a time."""

    def __init__(self, args: argparse.Namespace, url: str, config: ClusterConfig) -> None:
        self.args, fake = args, config.fake
        self.slo = Slo(fake.b_ms, fake.a_ms + fake.d_ms)
        self.deadline_s = DEADLINE_SHARE * self.slo.ttft_limit_ms(args.input_tokens) / 1e3
        self.target = HttpTarget(url, MODEL_NAME, headers={"x-shoal-deadline": f"{self.deadline_s:.3f}"})
        self.runs: list[Run] = []

    async def at(self, rate: float) -> Run:
        args, span_s = self.args, self.args.warmup + self.args.seconds
        rng = random.Random(args.seed + len(self.runs))
        times = arrival_times(Poisson(), rate, 2 + round(2 * rate * span_s), rng)
        requests = [LoadRequest(n, t, args.input_tokens, args.output_tokens) for n, t in enumerate(times) if t < span_s]
        async with HttpClient(self.target, PromptMaker(args.seed + (len(self.runs) << 20), VOCABULARY)) as client:
            done = await drive(client, requests, timeout_s=span_s + 60)
        counted = [one for one in done.records if one.request.due_s >= args.warmup]
        self.runs.append(Run(rate, args.seconds, counted, self.slo, self.deadline_s))
        print(f"{rate:7.2f} requests/s: goodput {self.runs[-1].goodput:.2f}", file=sys.stderr)
        return self.runs[-1]

    async def capacity(self) -> float:
        """Bisection from nothing to what full batches could do at most; 0: not even the lowest rate tried."""
        config = self.args
        step_s = (config.step_ms + 0.12 * config.slots) / 1e3
        low, high = 0.0, 1.2 * config.instances * config.slots / (step_s * config.output_tokens)
        for _ in range(config.halvings):
            middle = (low + high) / 2
            low, high = (middle, high) if (await self.at(middle)).met_share >= MET else (low, middle)
        return low


def score(runs: Sequence[Run], over: Run, capacity: float) -> dict[str, Any]:
    """Pure: the numbers of the result."""
    peak = max(run.goodput for run in runs)
    return {
        "capacity": capacity,
        "peak_goodput": peak,
        "goodput": over.goodput,
        "goodput_share": over.goodput / peak if peak else 0.0,
        "deadline_s": over.deadline_s,
        **{key: value for key, value in over.row().items() if key != "goodput"},
        "rows": [run.row() for run in runs],
    }


async def _run(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    config = config_of(args)
    async with AsyncExitStack() as stack:
        fleet = Fleet(config, folder, per_process=1, profile=None)
        await fleet.start(stack, args.start_timeout)
        bench = Bench(args, fleet.addresses["http"], config)
        capacity = await bench.capacity()
        over = await bench.at(args.factor * (capacity or bench.runs[-1].rate))
        return score(bench.runs, over, capacity)


def run(args: argparse.Namespace) -> Outcome:
    for name in ("instances", "factor", "seconds", "halvings", "slots", "step_ms", "input_tokens", "output_tokens"):
        if getattr(args, name) <= 0:
            raise InvalidArgument(name, limit="above 0", given=getattr(args, name))
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        return Outcome(asyncio.run(_run(args, Path(folder))))


__all__ = ["Run", "add_arguments", "run", "score"]
