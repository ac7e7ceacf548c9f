"""What active clients notice of a siege: idle connections, slow headers, oversized headers and bodies.

One frontend in a process of its own before fake engines serves --streams requests at any time. Rounds of calm and siege
alternate under the same load; the attackers are a process of their own. All on loopback, on this machine's cores.

`ttft_ratio`: p95 of the requests sent during sieges over p95 of those sent in calm. `memory_growth_mib`: the most that
the frontend held during a siege above what it held before the first one.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import psutil
from tqdm import tqdm

from shoal.bench import stats
from shoal.bench.clients import client_of
from shoal.bench.driver import drive
from shoal.bench.fanin import Fleet, Noting
from shoal.bench.hosts import Host
from shoal.bench.outcome import Outcome
from shoal.bench.record import Record
from shoal.bench.under_test import ENVIRONMENT, MODEL_NAME
from shoal.bench.workload import LoadRequest, PromptMaker
from shoal.cluster import open_files
from shoal.instance.tiny_model import ensure_tiny_model
from shoal.proto.config import ClusterConfig, parse_config
from shoal.proto.errors import InvalidArgument, ServerFault

INSTANCES = 2
VOCABULARY = 256
INPUT_TOKENS = 64
WORD_S = 120.0  # opening all idle connections included
SAMPLE_S = 0.25
REFUSED = {"400", "401", "408", "413", "431", "cut"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--idle", type=int, default=10_000, help="connections that say nothing")
    parser.add_argument("--slow", type=int, default=200, help="clients that send a header byte by byte")
    parser.add_argument("--abuse", type=float, default=5.0, help="oversized requests per second")
    parser.add_argument("--streams", type=int, default=200, help="honest requests at any time")
    parser.add_argument("--output-tokens", type=int, default=32, help="of an honest request, on average")
    parser.add_argument("--step-ms", type=float, default=200.0, help="modelled time of an engine step")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each calm and each siege")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--start-timeout", type=float, default=200.0)
    parser.add_argument("--seed", type=int, default=0)


def check(args: argparse.Namespace) -> None:
    for name in ("idle", "slow", "streams", "output_tokens", "step_ms", "seconds", "rounds"):
        if getattr(args, name) <= 0:
            raise InvalidArgument(name, limit="above 0", given=getattr(args, name))
    most = open_files.allow_most()  # the processes started from here inherit it
    if args.idle + args.slow + 100 > most:
        raise InvalidArgument("idle", limit=f"within the limit of open files, {most}", given=args.idle)


def siege_config(args: argparse.Namespace) -> ClusterConfig:
    zero = dict.fromkeys(("b_ms", "c_ms", "d_ms", "e_ms"), 0.0)
    engine = {"kind": "fake", "dtype": "float32", "max_model_len": 4096, "max_num_seqs": args.streams}
    return parse_config(
        {
            "model": str(ensure_tiny_model()),
            "served_model_name": MODEL_NAME,
            "instances": INSTANCES,
            "http_port": 0,
            "grpc_port": 0,
            "engine": engine,
            "fake": {"a_ms": args.step_ms, **zero},
            "limits": {"connections": max(12_000, args.idle + args.slow + 2 * args.streams)},
        }
    )


def plan(args: argparse.Namespace) -> list[LoadRequest]:
    """More than any run can finish. Lengths differ, so that requests do not end and begin all together."""
    rng, whole_s = Random(args.seed), 2 * args.rounds * (args.seconds + WORD_S) + args.start_timeout
    count = args.streams * (2 + int(whole_s * 1e3 / (args.step_ms * args.output_tokens)))
    lengths = (max(1, round(args.output_tokens * rng.uniform(0.5, 1.5))) for _ in range(count))
    return [LoadRequest(index, 0.0, INPUT_TOKENS, length) for index, length in enumerate(lengths)]


@dataclass(slots=True)
class Phase:
    """A stretch of calm or siege, on the records' clock, and what the frontend's memory was."""

    siege: bool
    began_s: float
    ended_s: float = 0.0
    rss_bytes: list[int] = field(default_factory=list)
    said: dict[str, Any] = field(default_factory=dict)


async def _watch(phase: Phase, process: psutil.Process, seconds: float) -> None:
    while perf_counter() < phase.began_s + seconds:
        phase.rss_bytes.append(process.memory_info().rss)
        await asyncio.sleep(SAMPLE_S)
    phase.ended_s = perf_counter()


async def phases(fleet: Fleet, attackers: Host, args: argparse.Namespace) -> list[Phase]:
    process, done = psutil.Process(fleet.frontend.pid), []
    for siege in tqdm([False, True] * args.rounds, unit="phase", file=sys.stderr):
        said = await attackers.ask("begin", WORD_S) if siege else {}
        phase = Phase(siege, perf_counter(), said=said)
        await _watch(phase, process, args.seconds)
        if siege:
            phase.said |= await attackers.ask("end", WORD_S)
        done.append(phase)
    return done


def score(args: argparse.Namespace, done: Sequence[Phase], records: Sequence[Record]) -> dict[str, Any]:
    """Pure: the numbers of the result."""
    ttfts: dict[bool, list[float]] = {False: [], True: []}
    failed: Counter[str] = Counter()
    for record in records:
        phase = next((one for one in done if one.began_s <= record.sent_s < one.ended_s), None)
        if phase is not None and record.chunk_s:
            ttfts[phase.siege].append(record.ttft_s)
        if record.error_kind not in ("", "interrupted"):
            failed[record.error_kind] += 1
    if not all(ttfts.values()):
        raise ServerFault("no request began in calm, or none under siege: longer --seconds or shorter --output-tokens")
    answers: Counter[str] = Counter()
    for one in done:
        answers.update(one.said.get("answers", {}))
    sieges = [one for one in done if one.siege]
    calm_ms, siege_ms = (stats.percentile(ttfts[siege], 95) * 1e3 for siege in (False, True))
    return {
        "ttft_ratio": siege_ms / calm_ms,
        "ttft_ms_p95_calm": calm_ms,
        "ttft_ms_p95_siege": siege_ms,
        "requests_calm": len(ttfts[False]),
        "requests_siege": len(ttfts[True]),
        "failed": dict(failed),
        "memory_growth_mib": (max(max(one.rss_bytes) for one in sieges) - max(done[0].rss_bytes)) / 2**20,
        "memory_mib_calm": max(done[0].rss_bytes) / 2**20,
        "idle_open": min(one.said["idle_open"] for one in sieges),
        "idle_kept": min(one.said["idle_kept"] for one in sieges),
        "slow_cut": sum(one.said["slow_cut"] for one in sieges),
        "slow_longest_s": max(one.said["slow_longest_s"] for one in sieges),
        "abuses_refused": sum(n for name, n in answers.items() if name.rsplit(" ", 1)[1] in REFUSED),
        "abuses_answered": {name: n for name, n in answers.items() if name.rsplit(" ", 1)[1] not in REFUSED},
        "answers": dict(answers),
        "streams": args.streams,
        "seconds": sum(one.ended_s - one.began_s for one in done),
    }


async def _run(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        fleet = Fleet(siege_config(args), folder, per_process=INSTANCES, profile=None)
        await fleet.start(stack, args.start_timeout)
        url = urlsplit(fleet.addresses["http"])
        words = [str(url.hostname), str(url.port), str(args.idle), str(args.slow), str(args.abuse)]
        attackers = Host("shoal.bench.siege_host", words, folder / "siege.log", ENVIRONMENT)
        await stack.enter_async_context(attackers)
        await attackers.said(args.start_timeout)
        where = {name: fleet.addresses[name] for name in ("http", "grpc")}
        client = client_of("http", **where, model=MODEL_NAME, prompts=PromptMaker(args.seed, VOCABULARY))
        await stack.enter_async_context(client)
        noting, stop = Noting(client), asyncio.Event()
        load = asyncio.create_task(drive(noting, plan(args), timeout_s=3600.0, concurrency=args.streams, stop=stop))
        try:
            await _all_stream(noting.records, args)
            done = await phases(fleet, attackers, args)
        finally:
            stop.set()
            run = await load
        return score(args, done, run.records)


async def _all_stream(records: Sequence[Record], args: argparse.Namespace) -> None:
    async with asyncio.timeout(args.start_timeout):
        while sum(bool(record.chunk_s) for record in records) < args.streams:
            await asyncio.sleep(0.05)


def run(args: argparse.Namespace) -> Outcome:
    check(args)
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        return Outcome(asyncio.run(_run(args, Path(folder))))


__all__ = ["Phase", "add_arguments", "check", "plan", "run", "score", "siege_config"]
