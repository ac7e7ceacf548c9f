"""Drains a loaded instance: all its requests move away while they run, then it stops. Fake engines, real protocol.

A steady load fills the fleet to about --load of its slots; then one instance is drained, as by `shoal drain`. Counted:
requests that failed, tokens that differ from what the fake engine must say, and how long it took. Then the next one,
after the first was replaced by `scale`.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

from shoal.bench import stats
from shoal.bench.direct_frontend import lost
from shoal.bench.driver import drive
from shoal.bench.local_cluster import VOCABULARY, LocalCluster, fake_config
from shoal.bench.outcome import Outcome
from shoal.bench.record import Record
from shoal.bench.workload import LoadRequest, PromptMaker
from shoal.instance.fake_tokens import reply

SETTLE_S = 3.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--instances", type=int, default=4)
    parser.add_argument("--drains", type=int, default=3)
    parser.add_argument("--streams", type=int, default=24, help="requests under way per instance")
    parser.add_argument("--input-tokens", type=int, default=512)
    parser.add_argument("--output-tokens", type=int, default=600)
    parser.add_argument("--timeout", type=float, default=240.0)
    parser.add_argument("--seed", type=int, default=0)


async def _drain_once(cluster: LocalCluster, number: int) -> dict[str, Any]:
    controller = cluster.controller
    victim = controller.fleet.wanted[0]
    load = controller.live[victim].load
    began_s, before = time.monotonic(), len(controller.planner.ended)
    controller.drain(victim)
    while victim in controller.slots:
        await asyncio.sleep(0.01)
    drained_s = time.monotonic() - began_s
    moves = [one for one in list(controller.planner.ended)[before:] if one.reason == "drain"]
    outcomes = [one.outcome for one in moves]
    controller.scale(cluster.config.instances)
    await cluster.until_ready(cluster.config.instances)
    return {
        "drain": number,
        "instance": victim,
        "running": load.running,
        "waiting": load.waiting,
        "drain_s": drained_s,
        "moves": len(moves),
        "outcomes": {name: outcomes.count(name) for name in sorted(set(outcomes))},
        "parked_ms_p50": stats.median([one.parked_s * 1e3 for one in moves if one.parked_s]),
    }


def mismatches(records: list[Record], prompts: PromptMaker) -> int:
    """Tokens that are not those of an undisturbed fake engine."""
    wrong = 0
    for record in records:
        wanted = reply(prompts.prompt(record.request), len(record.token_ids), VOCABULARY)
        wrong += sum(got != want for got, want in zip(record.token_ids, wanted, strict=True))
    return wrong


async def _run(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    config = fake_config(args.instances, engine={"max_num_seqs": 64}, fake={"a_ms": 20.0})
    prompts = PromptMaker(args.seed, VOCABULARY)
    width = args.instances * args.streams
    requests = [LoadRequest(n, 0.0, args.input_tokens, args.output_tokens) for n in range(width * 50)]
    async with LocalCluster(config, folder, seed=args.seed) as cluster:
        frontend = await cluster.frontend("least_work", prompts)
        stop = asyncio.Event()
        load = asyncio.create_task(drive(frontend, requests, timeout_s=args.timeout, concurrency=width, stop=stop))
        try:
            rows = []
            for number in range(args.drains):
                await asyncio.sleep(SETTLE_S)
                rows.append(await _drain_once(cluster, number))
        finally:
            stop.set()
            run = await load
        failovers = frontend.dispatcher.failovers
    return {
        "drains": len(rows),
        "failed": lost(run.records),
        "requests": len(run.records),
        "token_mismatches": mismatches(run.records, prompts),
        "failovers": failovers,
        "drain_s_max": max(row["drain_s"] for row in rows),
        "rows": rows,
    }


def run(args: argparse.Namespace) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        return Outcome(asyncio.run(_run(args, Path(folder))))


__all__ = ["add_arguments", "mismatches", "run"]
