"""What Shoal adds to plain vLLM: one instance behind a frontend against one plain server, same model and flags, in
turns.

Both run all the time; the plain server is frozen while Shoal is measured, so that it costs nothing then (a cluster
cannot be frozen: it would be fenced). The engine has one core, all the rest and this client have the others. In each
round both answer the same new prompts, so a round is a pair, and each number is the median over the rounds of the
difference (or ratio) within a round.

On CPU, plain vLLM runs its engine as two processes of which one spins; `--plain-engine` says which of them get the
engine's core.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from shoal.bench import stats
from shoal.bench.driver import drive
from shoal.bench.http_client import HttpClient, HttpTarget
from shoal.bench.outcome import Outcome
from shoal.bench.processes import freeze, pin, thaw
from shoal.bench.summary import summarize
from shoal.bench.under_test import MODEL_NAME, PlainServer, ShoalUnderTest, Status, bench_config
from shoal.bench.workload import FixedLength, PromptMaker, build_requests, synthetic_rows
from shoal.instance.stepper import THREAD_NAME
from shoal.proto.errors import ServerFault

SHOAL, PLAIN = "shoal", "plain"
NARROW, WIDE = 1, 16


@dataclass(frozen=True, slots=True)
class Row:
    """One turn: one way, one width, one round. `step_ms` is the engine's own, of Shoal only."""

    way: str
    width: int
    round: int
    ttft_ms_p50: float
    itl_ms_p50: float
    tpot_ms_p50: float
    requests_per_s: float
    completed: int
    failed: int
    step_ms: float | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="tiny", help="'tiny', a Hugging Face id or a folder")
    parser.add_argument("--input-tokens", type=int, default=256)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--vocabulary", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--narrow-requests", type=int, default=10, help="per turn, one at a time")
    parser.add_argument("--wide-requests", type=int, default=48, help="per turn, sixteen at a time")
    parser.add_argument(
        "--plain-engine", choices=("all", "worker"), default="all", help="what of plain's engine gets the engine's core"
    )
    parser.add_argument(
        "--shoal-engine", choices=("all", "step"), default="all", help="which threads of Shoal's instance get it"
    )
    parser.add_argument(
        "--timeout", type=float, default=300.0, help="seconds; no round begins that would not end within them"
    )
    parser.add_argument("--start-timeout", type=float, default=200.0)
    parser.add_argument("--seed", type=int, default=0)


class Bench:
    """The two servers and the turns. Owns the rows."""

    def __init__(self, args: argparse.Namespace, shoal: ShoalUnderTest, plain: PlainServer) -> None:
        self.args, self.shoal, self.plain = args, shoal, plain
        self.rows: list[Row] = []
        self.urls: dict[str, str] = {PLAIN: plain.url}

    def wait_up(self) -> None:
        deadline_s = time.monotonic() + self.args.start_timeout
        status = self.shoal.wait_up(self.args.start_timeout)
        self.plain.wait_up(deadline_s - time.monotonic())
        self.urls[SHOAL] = status.frontends[0].url
        self.pinned = self._pin(status)

    def _pin(self, status: Status) -> dict[str, Any] | None:
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            return None
        engine, rest = cores[:1], cores[1:]
        pin({os.getpid(), *self.shoal.pids(), *self.plain.pids()}, rest)
        plain_engine = self.plain.engine_pids(workers_only=self.args.plain_engine == "worker")
        pin(plain_engine, engine)
        pin(
            {instance.pid for instance in status.instances},
            engine,
            THREAD_NAME if self.args.shoal_engine == "step" else "",
        )
        return {"engine": engine, "rest": rest, "plain_engine_processes": len(plain_engine)}

    def measure(self, deadline_s: float) -> None:
        for width in (NARROW, WIDE):
            self._turn(SHOAL, width, -1, requests=width * 2)
            self._turn(PLAIN, width, -1, requests=width * 2)
        self.rows.clear()
        longest_s = 0.0
        for number in tqdm(range(self.args.rounds), unit="round", file=sys.stderr):
            began_s = time.monotonic()
            if number > 0 and began_s + longest_s > deadline_s:
                break
            self._round(number)
            longest_s = max(longest_s, time.monotonic() - began_s)

    def _round(self, number: int) -> None:
        ways = (SHOAL, PLAIN) if number % 2 == 0 else (PLAIN, SHOAL)
        for way in ways:
            self._turn(way, NARROW, number, requests=self.args.narrow_requests)
        for way in ways:
            self._turn(way, WIDE, number, requests=self.args.wide_requests)

    def _turn(self, way: str, width: int, number: int, requests: int) -> None:
        others = self.plain.pids() if way == SHOAL else set()
        freeze(others)
        try:
            result = asyncio.run(self._load(way, width, number, requests))
        finally:
            thaw(others)
        step_ms = self.shoal.status().instances[0].step_ms if (way, width) == (SHOAL, NARROW) else None
        self.rows.append(
            Row(
                way,
                width,
                number,
                result["median_ttft_ms"],
                result["median_itl_ms"],
                result["median_tpot_ms"],
                result["request_throughput"],
                result["completed"],
                result["failed"],
                step_ms,
            )
        )

    async def _load(self, way: str, width: int, number: int, count: int) -> dict[str, Any]:
        args = self.args
        rng = random.Random(args.seed)
        rows = synthetic_rows([0.0] * count, FixedLength(args.input_tokens), FixedLength(args.output_tokens), rng)
        prompts = PromptMaker((args.seed << 20) + (number + 1) * 100 + width, args.vocabulary)
        target = HttpTarget(self.urls[way], MODEL_NAME, request_timeout_s=120.0)
        async with HttpClient(target, prompts) as client:
            run = await drive(client, build_requests(rows, rng), timeout_s=240.0, concurrency=width)
        return summarize(run.records, duration_s=run.ended_s - run.began_s)


def score(rows: Sequence[Row], seed: int) -> dict[str, Any]:
    """Pure: the numbers of the result. Only rounds in which both ways answered all requests count."""
    rounds = sorted({row.round for row in rows})
    table = {(row.way, row.width, row.round): row for row in rows}
    whole = [number for number in rounds if _whole(table, number)]
    if not whole:
        raise ServerFault(f"no round of {len(rounds)} was answered by both: {_failures(rows)}")
    ours, plain = ({width: [table[way, width, n] for n in whole] for width in (NARROW, WIDE)} for way in (SHOAL, PLAIN))

    def added(field: str, width: int) -> stats.Interval:
        values = [[getattr(row, field) for row in side[width]] for side in (ours, plain)]
        return stats.paired_bootstrap(values[0], values[1], random.Random(seed))

    ratios = [a.requests_per_s / b.requests_per_s for a, b in zip(ours[WIDE], plain[WIDE], strict=True)]
    ratio = stats.paired_bootstrap(ratios, [0.0] * len(ratios), random.Random(seed))
    paths = [row.tpot_ms_p50 - row.step_ms for row in ours[NARROW] if row.step_ms]
    ttft, itl, wide_itl = added("ttft_ms_p50", NARROW), added("itl_ms_p50", NARROW), added("itl_ms_p50", WIDE)
    return {
        "added_ttft_ms_p50": ttft.estimate,
        "throughput_ratio": ratio.estimate,
        "added_itl_ms_p50": itl.estimate,
        "path_ms_per_token": stats.median(paths) if paths else None,
        "added_itl_ms_p50_wide": wide_itl.estimate,
        "intervals_95": {
            "added_ttft_ms_p50": [ttft.low, ttft.high],
            "throughput_ratio": [ratio.low, ratio.high],
            "added_itl_ms_p50": [itl.low, itl.high],
        },
        "rounds": len(whole),
        "rounds_dropped": len(rounds) - len(whole),
        "failed": sum(row.failed for row in rows),
    }


def _whole(table: dict[tuple[str, int, int], Row], number: int) -> bool:
    turns = [table.get((way, width, number)) for way in (SHOAL, PLAIN) for width in (NARROW, WIDE)]
    return all(row is not None and row.failed == 0 and row.completed > 0 for row in turns)


def _failures(rows: Sequence[Row]) -> str:
    return ", ".join(f"{row.way} c={row.width} round {row.round}: {row.failed} failed" for row in rows if row.failed)


def run(args: argparse.Namespace) -> Outcome:
    deadline_s = time.monotonic() + args.timeout
    config = bench_config(args.model, instances=1).model_copy(update={"spares": 0})
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-bench-")))
        stack.callback(pin, {os.getpid()}, os.sched_getaffinity(0))
        plain = stack.enter_context(PlainServer(config, folder))
        shoal = stack.enter_context(ShoalUnderTest(config, folder))
        bench = Bench(args, shoal, plain)
        bench.wait_up()
        bench.measure(deadline_s)
    result = {**score(bench.rows, args.seed), "pinned": bench.pinned, "frozen_when_idle": [PLAIN]}
    return Outcome({**result, "rows": [asdict(row) for row in bench.rows]})


__all__ = ["Row", "add_arguments", "run", "score"]
