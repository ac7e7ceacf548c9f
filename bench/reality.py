"""The simulator against this project's own instances: the same requests to a real fleet and to a simulated one.

First the fleet's step times are measured (bench/profile.py), then --requests requests are sent through the production
router and simulated from the same table, with the overhead calibrated on the first of them: four errors, as in `shoal
bench fidelity`. Then every two policies whose mean TTFT the simulator separates by more than --apart are run in turns,
--rounds times: do they keep their order?
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from shoal.bench import fidelity, profile
from shoal.bench.arrivals import arrival_times, parse_arrival
from shoal.bench.direct_frontend import lost
from shoal.bench.driver import drive
from shoal.bench.fidelity import Latencies, Seen
from shoal.bench.local_cluster import VOCABULARY, LocalCluster, fake_config
from shoal.bench.outcome import Outcome
from shoal.bench.record import Record
from shoal.bench.sim.fit import FITS, Measured
from shoal.bench.stats import mean
from shoal.bench.traces import TraceRow
from shoal.bench.workload import LoadRequest, LogNormalLength, PromptMaker, build_requests, synthetic_rows
from shoal.instance.step_time import WithOverhead
from shoal.proto.config import ClusterConfig
from shoal.proto.errors import ServerFault
from shoal.router.profile import PROFILES

PROFILE = {"prompts": (16, 64, 256, 512, 1024), "batches": (1, 2, 4, 8, 16), "contexts": (64, 512), "repeats": 3}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", choices=("vllm", "fake"), default="vllm", help="fake: to try the bench itself")
    parser.add_argument("--instances", type=int, default=2)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--calibrate", type=int, default=60, help="of them: the first, for the overhead per step")
    parser.add_argument("--rate", type=float, default=10.0, help="requests per second")
    parser.add_argument("--arrival", default="gamma:2", help="poisson, fixed or gamma:CV")
    parser.add_argument("--input-tokens", type=int, default=256)
    parser.add_argument("--output-tokens", type=int, default=48)
    parser.add_argument("--sigma", type=float, default=1.2, help="of the logarithms of both lengths")
    parser.add_argument("--policy", choices=PROFILES, default="least_work", help="of the 500 requests")
    parser.add_argument("--form", choices=FITS, default="linear", help="of the step-time model")
    parser.add_argument(
        "--order",
        nargs="*",
        choices=PROFILES,
        metavar="POLICY",
        default=["round_robin", "random", "join_shortest_queue", "least_work", "llumnix_freeness"],
    )
    parser.add_argument("--order-requests", type=int, default=200, help="of each run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--apart", type=float, default=0.15)
    parser.add_argument("--seed", type=int, default=0)


def requests_of(args: argparse.Namespace, number: int, seed: int) -> list[LoadRequest]:
    rng = random.Random(seed)
    times_s = arrival_times(parse_arrival(args.arrival), args.rate, number, rng)
    lengths = (LogNormalLength(tokens, args.sigma, 1024) for tokens in (args.input_tokens, args.output_tokens))
    return build_requests(synthetic_rows(times_s, *lengths, rng), rng)


class Real:
    """The fleet, and a frontend of its own for each run."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster, self.runs = cluster, 0

    async def profile(self) -> tuple[list[profile.Point], dict[str, int]]:
        """Step times, and the engines' sizes."""
        frontend = await self.cluster.frontend("round_robin", self._prompts())
        points = await profile.Profiler(frontend, self.cluster.config.instances, 120.0).measure(**PROFILE)
        info = frontend.dispatcher.view.candidates(0.0)[0].info
        await frontend.stop()
        names = ("block_size", "total_blocks", "max_num_batched_tokens", "max_num_seqs", "max_model_len")
        return points, {name: getattr(info, name) for name in names}

    async def run(self, policy: str, requests: Sequence[LoadRequest]) -> list[Seen]:
        frontend = await self.cluster.frontend(policy, self._prompts())
        run = await drive(frontend, requests, timeout_s=requests[-1].due_s + 120.0)
        await frontend.stop()
        if lost(run.records):
            raise ServerFault(f"{lost(run.records)} of {len(requests)} requests failed")
        return [_seen(record) for record in run.records]

    def _prompts(self) -> PromptMaker:
        self.runs += 1
        return PromptMaker(self.runs, VOCABULARY)


def _seen(record: Record) -> Seen:
    asked = record.request
    return Seen(asked.input_tokens, asked.output_tokens, record.sent_s, record.chunk_s[0], record.chunk_s[-1])


class Simulated:
    """The same fleet on a virtual clock."""

    def __init__(self, args: argparse.Namespace, sizes: Mapping[str, int], steps: Sequence[Measured]) -> None:
        self.given = {"instances": args.instances, "seed": args.seed, **sizes}
        self.kernels, self.overhead_ms = FITS[args.form](steps).step_time, 0.0

    def run(self, policy: str, truth: Sequence[Seen], overhead_ms: float | None = None) -> Latencies:
        rows = [TraceRow(0.0, seen.input_toks, seen.output_toks) for seen in truth]
        times = WithOverhead(self.kernels, self.overhead_ms if overhead_ms is None else overhead_ms)
        return fidelity.simulate(argparse.Namespace(**self.given, policy=policy), truth, rows, times)

    def calibrate(self, policy: str, truth: Sequence[Seen], first: slice) -> None:
        """The mean TPOT of the first requests is as it was."""

        def tpot_s(latencies: Latencies) -> float:
            return float(np.nanmean(latencies[1][first]))

        wanted_s = tpot_s(fidelity.measured(truth))
        self.overhead_ms = fidelity.calibrate(lambda ms: tpot_s(self.run(policy, truth, ms)), wanted_s)


def planned(requests: Sequence[LoadRequest]) -> list[Seen]:
    return [Seen(one.input_tokens, one.output_tokens, one.due_s, one.due_s, one.due_s) for one in requests]


def kept_order(simulated_s: Mapping[str, float], real_s: Mapping[str, Sequence[float]], apart: float) -> dict[str, Any]:
    """Pure. Mean TTFT by policy, simulated, and of each real round: per pair that is apart, in how many rounds the one
    that should be faster was."""
    pairs = {}
    for one, other in combinations(simulated_s, 2):
        faster, slower = sorted((one, other), key=lambda policy: simulated_s[policy])
        if simulated_s[slower] > (1 + apart) * simulated_s[faster]:
            rounds = zip(real_s[faster], real_s[slower], strict=True)
            pairs[f"{faster} < {slower}"] = sum(fast_s < slow_s for fast_s, slow_s in rounds)
    return pairs


async def _run(args: argparse.Namespace, config: ClusterConfig, folder: Path) -> dict[str, Any]:
    async with LocalCluster(config, folder, seed=args.seed) as cluster:
        real = Real(cluster)
        points, sizes = await real.profile()
        simulated = Simulated(args, sizes, profile.rows_of(points))
        truth = await real.run(args.policy, requests_of(args, args.requests, args.seed))
        first, rest = slice(0, args.calibrate), slice(args.calibrate, None)
        simulated.calibrate(args.policy, truth, first)
        errors = fidelity.compare(simulated.run(args.policy, truth), fidelity.measured(truth), rest)
        told_s: dict[str, list[float]] = {policy: [] for policy in args.order}
        seen_s: dict[str, list[float]] = {policy: [] for policy in args.order}
        for number in tqdm(range(args.rounds), unit="round", file=sys.stderr):
            requests = requests_of(args, args.order_requests, args.seed + 1 + number)
            for policy in args.order:
                told_s[policy].append(mean(simulated.run(policy, planned(requests))[0]))
                seen_s[policy].append(mean(fidelity.measured(await real.run(policy, requests))[0]))
    means_s = {policy: mean(values) for policy, values in told_s.items()}
    pairs = kept_order(means_s, seen_s, args.apart)
    return {
        **errors,
        "overhead_ms": simulated.overhead_ms,
        "pairs_apart": len(pairs),
        "rounds": args.rounds,
        "least_rounds_in_order": min(pairs.values(), default=None),
        "rounds_in_order": pairs,
        "simulated_ttft_ms": {policy: 1e3 * value for policy, value in means_s.items()},
        "real_ttft_ms": {policy: [1e3 * value for value in values] for policy, values in seen_s.items()},
        "fits": profile.fits_of(points),
    }


def run(args: argparse.Namespace) -> Outcome:
    engine = {"kind": args.engine, "dtype": "float32", "max_model_len": 4096, "kv_cache_bytes": 128 << 20}
    config = fake_config(args.instances, engine=engine)
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        return Outcome(asyncio.run(_run(args, config, Path(folder))))


__all__ = ["add_arguments", "kept_order", "run"]
