"""Load on a local cluster, and one random fault after another; after each, an oracle counts what no fault may do.

A round: requests arrive (Poisson) for --every seconds, in the middle of it a fault strikes for --hold seconds, the
stragglers end, and once all are up again the oracle looks. Every prompt comes from a small pool, whose answers were
taken undisturbed before; the clients are the product's own.

  P1 each token is that of the undisturbed answer, once      P4 no block of one tenant is served to another
  P2 all blocks are free, nothing runs                       P6 each request ended in one of ENDS
  P3 everybody is up within UP_S, each stream went on        P7 the frontends counted a lost stream where there was one
     within RECOVERY_S

`availability`: finished requests of all not refused. `memory_growth_pct_per_hour` and `files_growth`: of processes
that no fault replaced, between the first and the last round. --soak: two hours, one fault a minute, 70 % load.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm

from shoal.bench import stats
from shoal.bench.arrivals import Poisson, arrival_times
from shoal.bench.chaos_cluster import ChaosCluster, ResumingClient
from shoal.bench.chaos_faults import FAULTS, Strike
from shoal.bench.driver import drive
from shoal.bench.failover_score import recovery_s
from shoal.bench.local_cluster import VOCABULARY, fake_config
from shoal.bench.oracle import Resources, Stream, check_blocks, check_outcomes, check_tokens, check_whole
from shoal.bench.outcome import Outcome
from shoal.bench.record import End, Record
from shoal.bench.under_test import bench_config
from shoal.bench.workload import LoadRequest, PromptMaker
from shoal.proto.config import ClusterConfig, parse_config
from shoal.proto.errors import InvalidArgument, ServerFault, ShoalError

POOL = 12
PROBE = 1 << 20  # indexes of prompts that no other request has
UP_S, RECOVERY_S, CLIENT_S = 90.0, 10.0, 60.0
BLOCKS_WITHIN_S = 40.0  # an orphan that nobody resumes is kept for 30 s
ENDS = frozenset(
    {"completed", "grpc_RESOURCE_EXHAUSTED", "grpc_UNAVAILABLE", "grpc_DEADLINE_EXCEEDED", "grpc_FAILED_PRECONDITION"}
)
REFUSED = frozenset({"grpc_RESOURCE_EXHAUSTED"})
SPARE_FILES = 16  # what libraries open once and keep
SOAK = {"minutes": 120.0, "every": 60.0, "load": 0.7}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--every", type=float, default=12.0, help="seconds of arrivals per fault")
    parser.add_argument("--hold", type=float, default=3.0, help="seconds that a fault lasts, where it can last")
    parser.add_argument("--soak", action="store_true", help="sets --minutes, --every and --load")
    parser.add_argument("--engine", choices=("fake", "vllm"), default="fake")
    parser.add_argument("--instances", type=int, default=4)
    parser.add_argument("--frontends", type=int, default=2)
    parser.add_argument("--load", type=float, default=0.7, help="share of what full batches could do at most")
    parser.add_argument("--slots", type=int, default=8, help="running requests per instance")
    parser.add_argument("--step-ms", type=float, default=40.0, help="of a decode step; vllm: as measured before")
    parser.add_argument("--input-tokens", type=int, default=200)
    parser.add_argument("--output-tokens", type=int, default=80)
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS), metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)


def config_of(args: argparse.Namespace) -> ClusterConfig:
    """Two tenants, so that P4 can be tried."""
    sections: dict[str, Any] = {
        "keys": {"key-a": "a", "key-b": "b"},
        "engine": {"max_num_seqs": args.slots, "dtype": "float32"},
    }
    if args.engine == "fake":
        return fake_config(args.instances, fake={"a_ms": args.step_ms}, **sections)
    plain = bench_config("tiny", args.instances).model_dump(exclude={"secret", "keys"})
    engine = {**plain["engine"], **sections["engine"], "max_model_len": 2048, "kv_cache_bytes": 64 << 20}
    return parse_config({**plain, "spares": 0, "keys": sections["keys"], "engine": engine})


def rate_of(args: argparse.Namespace) -> float:
    return float(args.load * args.instances * args.slots / (args.output_tokens * args.step_ms / 1e3))


@dataclass(slots=True)
class Round:
    fault: str
    victim: str = ""
    proved: bool = False
    requests: int = 0
    refused: int = 0
    failed: int = 0
    recoveries_ms: list[float] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    error: str = ""


def judge(records: Sequence[Record], answers: Mapping[int, Sequence[int]], strike: Strike | None) -> list[str]:
    """P1, P3 of streams, and P6. Pure."""
    named = {f"r{n}": one for n, one in enumerate(records)}
    seen = {name: Stream(list(enumerate(one.token_ids)), [end_of(one)]) for name, one in named.items()}
    reference = {name: answers[one.request.index] for name, one in named.items()}
    whole = {name: stream for name, stream in seen.items() if named[name].end is End.COMPLETED}
    found = check_tokens(seen, reference) + check_whole(whole, reference) + check_outcomes(seen, seen, ENDS)
    late = [ms for ms in recoveries_ms(records, strike) if ms > RECOVERY_S * 1e3]
    return found + [f"P3 a stream went on after {ms:.0f} ms" for ms in late]


def end_of(record: Record) -> str:
    return record.error_kind or record.end.value


def recoveries_ms(records: Sequence[Record], strike: Strike | None) -> list[float]:
    """From the fault to the next new token, of each stream that it met."""
    if strike is None:
        return []
    met = [one for one in records if one.chunk_s and one.chunk_s[0] < strike.at_s < one.chunk_s[-1]]
    return [1e3 * seconds for one in met if (seconds := recovery_s(one.chunk_s, strike.at_s)) is not None]


class Campaign:
    """Owns the load, the answers, and the rows."""

    def __init__(self, args: argparse.Namespace, cluster: ChaosCluster) -> None:
        self.args, self.cluster = args, cluster
        self.rng, self.prompts = random.Random(args.seed), PromptMaker(args.seed, VOCABULARY)
        self.answers: dict[int, list[int]] = {}
        self.rounds: list[Round] = []
        self.footprints: list[tuple[float, dict[int, tuple[int, int]]]] = []
        self.deck: list[str] = []

    def client(self, key: str = "key-a") -> ResumingClient:
        return ResumingClient([one.grpc for one in self.cluster.front], key, self.prompts, CLIENT_S)

    async def send(self, indexes: Sequence[int], key: str = "key-a") -> list[Record]:
        requests = [LoadRequest(n, 0.0, self.args.input_tokens, self.args.output_tokens) for n in indexes]
        async with self.client(key) as client:
            done = await drive(client, requests, timeout_s=CLIENT_S, concurrency=self.args.slots)
        return done.records

    async def take_answers(self) -> None:
        for record in await self.send(range(POOL)):
            if record.end is not End.COMPLETED:
                raise ServerFault(f"undisturbed run: {record.error_kind} {record.error_text}")
            self.answers[record.request.index] = record.token_ids

    async def load(self) -> list[Record]:
        args, rate = self.args, rate_of(self.args)
        times = arrival_times(Poisson(), rate, 2 + round(1.5 * rate * args.every), self.rng)
        requests = [
            LoadRequest(self.rng.randrange(POOL), at_s, args.input_tokens, args.output_tokens)
            for at_s in times
            if at_s < args.every
        ]
        async with self.client() as client:
            return (await drive(client, requests, timeout_s=args.every + CLIENT_S)).records

    async def round(self, number: int) -> Round:
        if not self.deck:  # each fault once before any comes again
            self.deck = self.rng.sample(self.args.faults, len(self.args.faults))
        row = Round(self.deck.pop())
        ends = await self.cluster.link_ends()
        loading = asyncio.create_task(self.load())
        strike: Strike | None = None
        try:
            await asyncio.sleep(self.args.every * self.rng.uniform(0.2, 0.5))
            async with FAULTS[row.fault](self.cluster, self.rng) as strike:
                await asyncio.sleep(self.args.hold)
        except (ShoalError, OSError) as exc:
            row.error = f"{type(exc).__name__}: {exc}"
        records = await loading
        row.victim, row.proved = (strike.victim, strike.proved) if strike else ("", False)
        row.requests, row.refused = len(records), sum(one.error_kind in REFUSED for one in records)
        row.failed = sum(one.end is not End.COMPLETED for one in records) - row.refused
        row.recoveries_ms = [round(ms, 1) for ms in recoveries_ms(records, strike)]
        row.violations = [*judge(records, self.answers, strike), *await self.aftermath(number, strike, ends)]
        return row

    async def aftermath(self, number: int, strike: Strike | None, ends: int) -> list[str]:
        """P2, P3 of processes, P4, P7; and what they hold is written down."""
        found = await self.cluster.whole(UP_S)
        if not found and strike is not None and strike.proved and strike.heard:
            silent = await self.cluster.link_ends() <= ends
            found += [f"P7 no frontend counted a loss of {strike.victim}"] if silent else []
        found += await self.probe(number)
        end_s = time.monotonic() + BLOCKS_WITHIN_S
        while (left := check_blocks(self.cluster.status())) and time.monotonic() < end_s:
            await asyncio.sleep(0.2)
        self.note()
        return found + left

    async def probe(self, number: int) -> list[str]:
        """One tenant warms all caches with a new prompt; the other must find none of it."""
        warm = await self.send([PROBE + number] * 2 * self.args.instances)
        (other,) = await self.send([PROBE + number], key="key-b")
        bad = [one for one in [*warm, other] if one.end is not End.COMPLETED]
        found = [f"P6 after the fault: {one.error_kind} {one.error_text}" for one in bad[:1]]
        return found + ([f"P4 {other.cached_tokens} tokens of another tenant's blocks"] if other.cached_tokens else [])

    def note(self) -> None:
        held = {}
        for pid in [*self.cluster.pids().values(), psutil.Process().pid]:
            with suppress(psutil.Error):
                process = psutil.Process(pid)
                held[pid] = (process.memory_info().rss, process.num_fds())
        self.footprints.append((time.monotonic(), held))

    async def run(self) -> None:
        await self.take_answers()
        self.note()
        minutes, end_s = self.args.minutes, time.monotonic() + 60 * self.args.minutes
        with tqdm(total=round(60 * minutes), unit="s", file=sys.stderr) as bar:
            while (began_s := time.monotonic()) < end_s:
                self.rounds.append(row := await self.round(len(self.rounds)))
                bar.update(round(time.monotonic() - began_s))
                words = "; ".join(row.violations) or row.error or "nothing wrong"
                bar.write(f"{row.fault} of {row.victim}: {words}", file=sys.stderr)


def growth(footprints: Sequence[tuple[float, Mapping[int, tuple[int, int]]]]) -> dict[str, Any]:
    """Of those that lived from the second note (the first is before any load) to the last. Pure."""
    (began_s, first), (ended_s, last) = footprints[min(1, len(footprints) - 1)], footprints[-1]
    both = first.keys() & last.keys()
    rss_first, rss_last = sum(first[pid][0] for pid in both), sum(last[pid][0] for pid in both)
    hours = max(ended_s - began_s, 1.0) / 3600
    return {
        "processes_compared": len(both),
        "memory_growth_pct": 100 * (rss_last - rss_first) / max(rss_first, 1),
        "memory_growth_pct_per_hour": 100 * (rss_last - rss_first) / max(rss_first, 1) / hours,
        "files_growth": max((last[pid][1] - first[pid][1] for pid in both), default=0),
    }


def score(rounds: Sequence[Round], grown: Mapping[str, Any], left: Sequence[str]) -> dict[str, Any]:
    """Pure: the numbers of the result."""
    found = [line for row in rounds for line in row.violations] + list(left)
    if grown["files_growth"] > SPARE_FILES:
        found.append(f"resources: a process has {grown['files_growth']} more open files")
    asked = sum(row.requests - row.refused for row in rounds)
    by_fault: dict[str, list[float]] = {}
    for row in rounds:
        by_fault.setdefault(row.fault, []).extend(row.recoveries_ms)
    return {
        "violations": len(found),
        "faults": len(rounds),
        "faults_proved": sum(row.proved for row in rounds),
        "faults_by_kind": dict(Counter(row.fault for row in rounds)),
        "availability": 1 - sum(row.failed for row in rounds) / asked if asked else None,
        "requests": sum(row.requests for row in rounds),
        "refused": sum(row.refused for row in rounds),
        "recovery_ms": {
            name: {"p50": stats.median(ms), "p95": stats.percentile(ms, 95), "max": max(ms), "streams": len(ms)}
            for name, ms in sorted(by_fault.items())
            if ms
        },
        **grown,
        "violation_examples": found[:10],
        "rows": [asdict(row) for row in rounds],
    }


async def _run(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    before = Resources.of()
    async with AsyncExitStack() as stack:
        cluster = ChaosCluster(config_of(args), folder, frontends=args.frontends, seed=args.seed)
        campaign = Campaign(args, await stack.enter_async_context(cluster))
        await campaign.run()
    after = Resources.of()
    left = [f"resources: process {pid} is left" for pid in sorted(after.children - before.children)]
    left += [f"resources: {name} in /dev/shm" for name in sorted(after.shm_names - before.shm_names)]
    return score(campaign.rounds, growth(campaign.footprints), left)


def run(args: argparse.Namespace) -> Outcome:
    if args.soak:
        vars(args).update(SOAK)
    for name in ("minutes", "every", "hold", "instances", "frontends", "load", "slots", "step_ms"):
        if getattr(args, name) <= 0:
            raise InvalidArgument(name, limit="above 0", given=getattr(args, name))
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        return Outcome(asyncio.run(_run(args, Path(folder))))


__all__ = ["FAULTS", "Campaign", "Round", "add_arguments", "growth", "judge", "run", "score"]
