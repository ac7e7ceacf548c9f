"""A steady stream of requests over a small cluster for minutes: is one lost, does memory grow, are all blocks free at
the end?

Warm-up requests come first, alike; the memory of all instances and frontends is read once they are done and the
cluster is idle, and again in the end. Arrivals are Poisson.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from shoal.bench import at_hand
from shoal.bench.arrivals import Poisson, arrival_times
from shoal.bench.at_hand import ClusterAtHand, compare, footprints, watch_memory
from shoal.bench.clients import APIS, client_of
from shoal.bench.driver import Run, drive
from shoal.bench.http_client import first_model
from shoal.bench.outcome import Outcome
from shoal.bench.record import End, Record
from shoal.bench.summary import summarize
from shoal.bench.workload import FixedLength, LoadRequest, PromptMaker, build_requests, synthetic_rows
from shoal.proto.errors import InvalidArgument, ServerFault

IDLE_WITHIN_S = 20.0
MEMORY_EVERY_S = 10.0
QUIET_S = 2.0  # after the last request, before memory is read: what is freed late is freed by then


def add_arguments(parser: argparse.ArgumentParser) -> None:
    at_hand.add_arguments(parser)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--rate", type=float, default=8.0, help="requests per second")
    parser.add_argument("--input-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=32)
    parser.add_argument("--api", choices=APIS, default="http")
    parser.add_argument("--vocabulary", type=int, default=256)
    parser.add_argument("--request-timeout", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)


def check(args: argparse.Namespace) -> None:
    for name in ("requests", "warmup", "rate", "input_tokens", "output_tokens", "request_timeout"):
        if getattr(args, name) <= 0:
            raise InvalidArgument(name, limit="above 0", given=getattr(args, name))


def plan(args: argparse.Namespace, count: int, seed: int) -> list[LoadRequest]:
    rng = random.Random(seed)
    times = arrival_times(Poisson(), args.rate, count, rng)
    rows = synthetic_rows(times, FixedLength(args.input_tokens), FixedLength(args.output_tokens), rng)
    return build_requests(rows, rng)


class Bench:
    """Sends to the first frontend of one cluster."""

    def __init__(self, args: argparse.Namespace, cluster: ClusterAtHand) -> None:
        self.args, self.cluster = args, cluster

    async def run(self) -> dict[str, Any]:
        frontend = (await asyncio.to_thread(self.cluster.status)).frontends[0]
        model = await first_model(frontend.http, self.args.key or None)
        self.where = {"http": frontend.http, "grpc": frontend.grpc, "model": model, "key": self.args.key}
        warm_up = await self._send(self.args.warmup, 2 * self.args.seed)
        if await self._idle_after(warm_up) is None:
            raise ServerFault("after the warm-up the cluster is not idle")
        before = footprints(await asyncio.to_thread(self.cluster.status))
        timeline: list[dict[str, float]] = []
        watching = asyncio.create_task(watch_memory(before, MEMORY_EVERY_S, timeline))
        run = await self._send(self.args.requests, 2 * self.args.seed + 1)
        watching.cancel()
        blocks_back_s = await self._idle_after(run)
        after = footprints(await asyncio.to_thread(self.cluster.status))
        return {
            **score(run.records, self.args.requests, blocks_back_s),
            **compare(before, after),
            "memory_mib": timeline,
            "warmup_failed": sum(record.end is not End.COMPLETED for record in warm_up.records),
            "api": self.args.api,
            "request_rate": self.args.rate,
            **summarize(run.records, duration_s=run.ended_s - run.began_s, planned=self.args.requests),
        }

    async def _send(self, count: int, seed: int) -> Run:
        prompts = PromptMaker(seed, self.args.vocabulary)
        client = client_of(self.args.api, **self.where, prompts=prompts, request_timeout_s=self.args.request_timeout)
        requests = plan(self.args, count, seed)
        longest_s = requests[-1].due_s + self.args.request_timeout + 5.0
        with tqdm(total=count, unit="req", file=sys.stderr, mininterval=0.5) as bar:
            async with client:
                return await drive(client, requests, timeout_s=longest_s, finished=lambda _: bar.update() and None)

    async def _idle_after(self, run: Run) -> float | None:
        """Seconds from the last request's end until all blocks were free; None: they never were."""
        since_s = await asyncio.to_thread(self.cluster.idle_since, IDLE_WITHIN_S)
        await asyncio.sleep(QUIET_S)
        last_s = max((record.finished_s for record in run.records), default=run.ended_s)
        return None if since_s is None else max(0.0, since_s - last_s)


def score(records: Sequence[Record], planned: int, blocks_back_s: float | None) -> dict[str, Any]:
    """Pure: the numbers that the run is for. A request that was never sent is lost as well."""
    return {
        "lost": planned - sum(record.end is End.COMPLETED for record in records),
        "all_blocks_free": blocks_back_s is not None,
        "blocks_back_s": blocks_back_s,
    }


def run(args: argparse.Namespace) -> Outcome:
    check(args)
    with at_hand.cluster_at_hand(args) as cluster:
        began_s = time.perf_counter()
        result = asyncio.run(Bench(args, cluster).run())
    return Outcome({**result, "seconds": time.perf_counter() - began_s})


__all__ = ["add_arguments", "check", "plan", "run", "score"]
