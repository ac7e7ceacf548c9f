"""Clients that hang up: at a random moment before the first token, or after a random token, over HTTP and gRPC alike.
Does anything stay behind?

They come in waves of a bounded number at a time. After each wave: how long from its last hang-up until every block is
free and nothing runs or waits. Files and memory of instances and frontends are read before the first counted wave and
after the last.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from shoal.bench import at_hand
from shoal.bench.at_hand import ClusterAtHand, compare, footprints, requests_held
from shoal.bench.clients import APIS, Api, client_of
from shoal.bench.driver import Client, drive
from shoal.bench.http_client import first_model
from shoal.bench.outcome import Outcome
from shoal.bench.record import End, Record
from shoal.bench.workload import LoadRequest, PromptMaker
from shoal.proto.errors import InvalidArgument

IDLE_WITHIN_S = 20.0
QUIET_S = 2.0
WAVE_TIMEOUT_S = 120.0
EARLY_SHARE = 0.4
EARLY_WITHIN_S = 0.15  # about the time to a first token, so that some leave while still queued and some just after


def add_arguments(parser: argparse.ArgumentParser) -> None:
    at_hand.add_arguments(parser)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--wave", type=int, default=100, help="clients between two looks at the blocks")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--input-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--vocabulary", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)


def check(args: argparse.Namespace) -> None:
    for name in ("clients", "wave", "concurrency", "input_tokens"):
        if getattr(args, name) <= 0:
            raise InvalidArgument(name, limit="above 0", given=getattr(args, name))
    if args.output_tokens < 2:
        raise InvalidArgument("output_tokens", limit="at least 2: one to see and one to miss", given=args.output_tokens)


@dataclass(frozen=True, slots=True)
class Visit:
    """One client. It leaves after `leave_after_s`, or where that is None after `request.hang_up_after` tokens."""

    request: LoadRequest
    api: Api
    leave_after_s: float | None


def visit(index: int, args: argparse.Namespace, rng: random.Random) -> Visit:
    early = rng.random() < EARLY_SHARE
    tokens = None if early else rng.randint(1, args.output_tokens - 1)
    request = LoadRequest(index, 0.0, args.input_tokens, args.output_tokens, hang_up_after=tokens)
    return Visit(request, rng.choice(APIS), rng.uniform(0, EARLY_WITHIN_S) if early else None)


class Leaving:
    """A client for `drive` that sends each request over its visit's API and leaves when the visit says so."""

    def __init__(self, clients: Mapping[Api, Client], visits: Sequence[Visit]) -> None:
        self.clients = clients
        self.visits = {one.request.index: one for one in visits}

    async def run(self, record: Record) -> None:
        mine = self.visits[record.request.index]
        try:
            async with asyncio.timeout(mine.leave_after_s):
                await self.clients[mine.api].run(record)
        except TimeoutError:
            record.hang_up(time.perf_counter())


@dataclass(slots=True)
class Wave:
    """`blocks_back_s`: None if they were not back in time; then `held` says how many requests were left."""

    records: list[Record]
    blocks_back_s: float | None
    held: int = 0
    by_api: Counter[str] = field(default_factory=Counter)


class Bench:
    def __init__(self, args: argparse.Namespace, cluster: ClusterAtHand) -> None:
        self.args, self.cluster = args, cluster
        self.rng = random.Random(args.seed)

    async def run(self) -> dict[str, Any]:
        args = self.args
        frontend = (await asyncio.to_thread(self.cluster.status)).frontends[0]
        model = await first_model(frontend.http, args.key or None)
        self.where = {"http": frontend.http, "grpc": frontend.grpc, "model": model, "key": args.key}
        await self._wave(range(args.clients, args.clients + args.wave))  # what opens once and stays, opens here
        before = footprints(await asyncio.to_thread(self.cluster.status))
        waves = []
        with tqdm(total=args.clients, unit="client", file=sys.stderr) as bar:
            for first in range(0, args.clients, args.wave):
                waves.append(await self._wave(range(first, min(first + args.wave, args.clients))))
                bar.update(len(waves[-1].records))
        after = footprints(await asyncio.to_thread(self.cluster.status))
        return {**score(waves, args.clients), **compare(before, after)}

    async def _wave(self, numbers: range) -> Wave:
        visits = [visit(number, self.args, self.rng) for number in numbers]
        prompts = PromptMaker(self.args.seed, self.args.vocabulary)
        async with AsyncExitStack() as stack:
            clients = {
                api: await stack.enter_async_context(client_of(api, **self.where, prompts=prompts)) for api in APIS
            }
            leaving = Leaving(clients, visits)
            requests = [one.request for one in visits]
            run = await drive(leaving, requests, timeout_s=WAVE_TIMEOUT_S, concurrency=self.args.concurrency)
            last_s = max((record.finished_s for record in run.records), default=run.ended_s)
            since_s = await asyncio.to_thread(self.cluster.idle_since, IDLE_WITHIN_S)
        wave = Wave(run.records, None if since_s is None else max(0.0, since_s - last_s))
        wave.by_api.update(one.api for one in visits)
        await asyncio.sleep(QUIET_S)
        wave.held = requests_held(await asyncio.to_thread(self.cluster.status))
        return wave


def score(waves: Sequence[Wave], planned: int) -> dict[str, Any]:
    """Pure. `blocks_back_s_max` is None if they ever stayed away; a request that is held after one wave and gone after
    the next was late, not leaked, and shows there.
    """
    records = [record for wave in waves for record in wave.records]
    back_s = [wave.blocks_back_s for wave in waves]
    hung_up = [record for record in records if record.end is End.HUNG_UP]
    return {
        "leaked_requests": waves[-1].held if waves else 0,
        "blocks_back_s_max": None if None in back_s else max((s for s in back_s if s is not None), default=None),
        "clients": planned,
        "hung_up": len(hung_up),
        "hung_up_before_first_token": sum(not record.chunk_s for record in hung_up),
        "completed": sum(record.end is End.COMPLETED for record in records),
        "failed": sum(record.end is End.FAILED for record in records),
        "not_sent": planned - len(records),
        "errors_by_kind": dict(Counter(record.error_kind for record in records if record.error_kind)),
        "clients_by_api": dict(sum((wave.by_api for wave in waves), Counter())),
        "waves": [{"blocks_back_s": wave.blocks_back_s, "held": wave.held} for wave in waves],
    }


def run(args: argparse.Namespace) -> Outcome:
    check(args)
    with at_hand.cluster_at_hand(args) as cluster:
        began_s = time.perf_counter()
        result = asyncio.run(Bench(args, cluster).run())
    return Outcome({**result, "seconds": time.perf_counter() - began_s})


__all__ = ["Leaving", "Visit", "Wave", "add_arguments", "check", "run", "score", "visit"]
