"""Moves running requests between two instances: the client's pause, the copy, and whether every token is right.

Per prompt length, --moves greedy streams are moved once each by hand, after some tokens. `pause_ms`: the longest gap
that the client saw around the move. `median_step_ms`: its gaps before. Before that the same prompt runs undisturbed,
new to every cache: its tokens are the reference, its time to the first token is what recomputing would have cost
(`recompute_pause_ms`). `blocking_copy_pause_ms`: the same move's whole copy as if the request had been parked for it.

`others_slowdown_pct`: eight decodes on either side, their mean gap while --others-tokens requests move back and forth,
against the windows between; the median over --pairs with its 95 % interval, for source and target together.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

from shoal.bench import stats
from shoal.bench.http_client import HttpClient, HttpTarget
from shoal.bench.outcome import Outcome
from shoal.bench.record import End, Record
from shoal.bench.under_test import MODEL_NAME, ShoalUnderTest, bench_config
from shoal.bench.workload import LoadRequest, PromptMaker
from shoal.cluster.controller_client import ControllerClient
from shoal.cluster.rundir import find
from shoal.proto.config import ClusterConfig, parse_config
from shoal.proto.errors import ServerFault
from shoal.proto.v1 import controller_pb2 as cpb

MOVED = ("committed", "moved_waiting")
BEFORE_TOKENS, AFTER_S = 16, 0.3
TOKEN_TIMEOUT_S = 60.0
OTHERS, OTHERS_INPUT, VOCABULARY = 8, 64, 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt-tokens", default="256,1000,2000,4000,8000,12000")
    parser.add_argument("--moves", type=int, default=5, help="per prompt length")
    parser.add_argument("--output-tokens", type=int, default=96)
    parser.add_argument("--pairs", type=int, default=30, help="of windows with and without a move; 0: skip")
    parser.add_argument("--others-tokens", type=int, default=8000)
    parser.add_argument("--model", default="tiny", help="'tiny', a Hugging Face id or a folder")
    parser.add_argument("--engine", choices=("vllm", "fake"), default="vllm", help="fake: to try the bench itself")
    parser.add_argument("--start-timeout", type=float, default=200.0)
    parser.add_argument("--seed", type=int, default=0)


def migrate_config(model: str, engine: str) -> ClusterConfig:
    base = bench_config(model, 2, engine=engine).model_dump(mode="json", exclude={"secret"})
    base["engine"] |= {"max_model_len": 16384, "max_num_batched_tokens": 2048, "pin_cores": True}
    base["migration"] = {"enabled": False}  # only what is asked for moves
    return parse_config({**base, "spares": 0})


class Bench:
    """Owns the names of its requests. One move at a time."""

    def __init__(self, args: argparse.Namespace, url: str, controller: ControllerClient) -> None:
        self.args, self.url, self.controller = args, url, controller
        self.made = 0

    def client(self) -> tuple[HttpClient, str]:
        self.made += 1
        name = f"move-{self.made:04d}"
        body = {"temperature": 0.0, "ignore_eos": True, "return_token_ids": True}
        named = {"X-Request-Id": name}
        target = HttpTarget(self.url, MODEL_NAME, extra=body, headers=named, request_timeout_s=TOKEN_TIMEOUT_S * 5)
        return HttpClient(target, PromptMaker(self.args.seed, VOCABULARY)), name

    async def move(self, name: str, target: str) -> cpb.MoveReport:
        return await asyncio.to_thread(self.controller.migrate, name, target)

    async def row(self, prompt_tokens: int) -> dict[str, Any]:
        moves = [await self.one(prompt_tokens, number) for number in range(self.args.moves)]
        pauses = [one["pause_ms"] for one in moves]
        return {
            "prompt_tokens": prompt_tokens,
            "moves": len(moves),
            "pause_ms_p50": stats.median(pauses),
            "pause_ms_p99": stats.percentile(pauses, 99),
            "tokens_equal": all(one["equal"] for one in moves),
            "outcomes": sorted({one["outcome"] for one in moves}),
            **{
                f"{name}": stats.median([one[name] for one in moves])
                for name in ("median_step_ms", "recompute_pause_ms", "blocking_copy_pause_ms", "sent_bytes", "stages")
            },
            "move_ms_p50": stats.median([one["move_ms"] for one in moves]),
        }

    async def one(self, prompt_tokens: int, number: int) -> dict[str, Any]:
        request = LoadRequest(prompt_tokens * 1000 + number, 0.0, prompt_tokens, self.args.output_tokens)
        reference, (client, _) = Record(request), self.client()
        async with client:
            await client.run(reference)
        record, (client, name) = Record(request), self.client()
        async with client:
            task = asyncio.create_task(client.run(record))
            await _has_tokens(record, BEFORE_TOKENS)
            began_s = time.perf_counter()
            report = await self.move(name, other(record.instance))
            ended_s = time.perf_counter()
            await task
        return measured(record, reference, report, began_s, ended_s)

    async def others(self) -> dict[str, Any]:
        """Pairs of windows: one move of a long request, then as long without."""
        async with AsyncExitStack() as stack:
            crowd = [Record(LoadRequest(n, 0.0, OTHERS_INPUT, 12_000)) for n in range(2 * OTHERS)]
            long = Record(LoadRequest(10**6, 0.0, self.args.others_tokens, 7_000))
            (mover, name), clients = self.client(), [self.client()[0] for _ in crowd]
            for client in (mover, *clients):
                await stack.enter_async_context(client)
            tasks = [asyncio.create_task(client.run(one)) for client, one in zip(clients, crowd, strict=True)]
            for one in crowd:
                await _has_tokens(one, BEFORE_TOKENS)
            tasks.append(asyncio.create_task(mover.run(long)))
            await _has_tokens(long, BEFORE_TOKENS)
            slowdowns, at, outcomes = [], long.instance, []
            for _ in range(self.args.pairs):
                began_s = time.perf_counter()
                report = await self.move(name, other(at))
                ended_s = time.perf_counter()
                at = other(at) if report.outcome in MOVED else at
                outcomes.append(report.outcome)
                await asyncio.sleep(max(ended_s - began_s, AFTER_S))
                with_s = mean_gap_s(crowd, began_s, ended_s)
                slowdowns.append(100 * (with_s / mean_gap_s(crowd, ended_s, time.perf_counter()) - 1))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        interval = stats.paired_bootstrap(slowdowns, [0.0] * len(slowdowns), random.Random(self.args.seed))
        return {
            "others_slowdown_pct": interval.estimate,
            "others_slowdown_pct_95": [interval.low, interval.high],
            "others_moves": {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))},
        }


def other(instance: str) -> str:
    return "i1" if instance == "i0" else "i0"


async def _has_tokens(record: Record, tokens: int) -> None:
    deadline_s = time.perf_counter() + TOKEN_TIMEOUT_S
    while record.output_tokens < tokens:
        if record.end is End.FAILED or time.perf_counter() > deadline_s:
            raise ServerFault(f"{record.error_kind or 'too slow'}: {record.error_text}")
        await asyncio.sleep(0.002)


def measured(
    record: Record, reference: Record, report: cpb.MoveReport, began_s: float, ended_s: float
) -> dict[str, Any]:
    """Pure. The pause is looked for between the order and a little after the end of the move."""
    gaps = [(at_s, at_s - before_s) for before_s, at_s in zip(record.chunk_s, record.chunk_s[1:], strict=False)]
    around = [gap for at_s, gap in gaps if began_s <= at_s <= ended_s + AFTER_S]
    before = [gap for at_s, gap in gaps if at_s < began_s]
    return {
        "outcome": report.outcome,
        "pause_ms": max(around, default=0.0) * 1e3,
        "median_step_ms": stats.median(before) * 1e3,
        "move_ms": (report.copy_s + report.parked_s) * 1e3,
        "recompute_pause_ms": reference.ttft_s * 1e3,
        "blocking_copy_pause_ms": report.copy_s * 1e3 + max(around, default=0.0) * 1e3,
        "sent_bytes": float(report.sent_bytes),
        "stages": float(report.stages),
        "equal": bool(record.token_ids) and record.token_ids == reference.token_ids,
    }


def mean_gap_s(records: Sequence[Record], from_s: float, to_s: float) -> float:
    gaps = [
        after - before
        for record in records
        for before, after in zip(record.chunk_s, record.chunk_s[1:], strict=False)
        if from_s <= before and after <= to_s
    ]
    if not gaps:
        raise ServerFault(f"no token of the others came in a window of {to_s - from_s:.2f} s")
    return stats.mean(gaps)


async def _run(args: argparse.Namespace, url: str, controller: ControllerClient) -> dict[str, Any]:
    bench = Bench(args, url, controller)
    rows = [await bench.row(int(tokens)) for tokens in args.prompt_tokens.split(",")]
    return {"rows": rows, **(await bench.others() if args.pairs else {})}


def run(args: argparse.Namespace) -> Outcome:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-bench-")))
        shoal = stack.enter_context(ShoalUnderTest(migrate_config(args.model, args.engine), folder))
        status = shoal.wait_up(args.start_timeout)
        os.environ["XDG_RUNTIME_DIR"] = shoal.environment["XDG_RUNTIME_DIR"]  # where that cluster's run directory is
        run_dir = find()
        state = run_dir.state()
        assert state is not None
        controller = stack.enter_context(ControllerClient(state.controller, run_dir.token()))
        return Outcome(asyncio.run(_run(args, status.frontends[0].url, controller)))


__all__ = ["add_arguments", "mean_gap_s", "measured", "migrate_config", "run"]
