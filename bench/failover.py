"""Kills and freezes instances under live streams and compares every token with an undisturbed run of the same
prompts.

Per run: four streams (greedy and seeded alternately, two of them with penalties); once all of them produce, SIGKILL
or SIGSTOP in turn hits an instance that serves at least one; a frozen one is thawed when all streams have ended; the
run ends when that instance is ready again. Then the same prompts run undisturbed. They ask for prompt logprobs, which
makes vLLM compute the prompt anew instead of reading cached blocks, so that a block damaged by the fail-over cannot
hide. Each fault must be seen in /proc before it counts.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from shoal.bench import stats
from shoal.bench.failover_score import StreamResult, judge
from shoal.bench.http_client import HttpClient, HttpTarget
from shoal.bench.outcome import Outcome
from shoal.bench.processes import process_state
from shoal.bench.record import End, Record
from shoal.bench.under_test import MODEL_NAME, InstanceStatus, ShoalUnderTest, Status, bench_config
from shoal.bench.workload import LoadRequest, PromptMaker
from shoal.proto.errors import ServerFault, ShoalError

FAULTS = (signal.SIGKILL, signal.SIGSTOP)
EFFECT = {signal.SIGKILL: ("", "Z", "X"), signal.SIGSTOP: ("T",)}
EFFECT_WITHIN_S = 2.0
FIRST_FAULT_TOKEN, LAST_FAULT_TOKEN = 20, 120
QUARANTINED = "quarantined"
SAMPLINGS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 1.0, "top_p": 0.95},
    {"temperature": 0.0, "presence_penalty": 0.5, "repetition_penalty": 1.1},
    {"temperature": 1.0, "frequency_penalty": 0.5},
)


@dataclass(slots=True)
class FaultRun:
    """One fault and what came of it. `rejoin_s` is None if the instance did not come back in time."""

    fault: str
    victim: str
    served: dict[str, int]
    proved: bool
    streams: list[StreamResult] = field(default_factory=list)
    rejoin_s: float | None = None
    errors: list[str] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=10, help="faults, SIGKILL and SIGSTOP in turn")
    parser.add_argument("--model", default="tiny", help="'tiny', a Hugging Face id or a folder")
    parser.add_argument(
        "--engine", choices=("vllm", "fake"), default="vllm", help="fake: the step model, to try the bench itself"
    )
    parser.add_argument("--instances", type=int, default=2)
    parser.add_argument("--input-tokens", type=int, default=512)
    parser.add_argument("--output-tokens", type=int, default=220)
    parser.add_argument("--vocabulary", type=int, default=256)
    parser.add_argument("--stream-timeout", type=float, default=60.0)
    parser.add_argument("--rejoin-timeout", type=float, default=90.0)
    parser.add_argument("--start-timeout", type=float, default=200.0)
    parser.add_argument(
        "--timeout", type=float, default=300.0, help="seconds; no run begins that would not end within them"
    )
    parser.add_argument("--seed", type=int, default=0)


class Bench:
    """Owns the faults of one cluster. Any stopped process is thawed whatever happens."""

    def __init__(self, args: argparse.Namespace, shoal: ShoalUnderTest, url: str) -> None:
        self.args, self.shoal, self.url = args, shoal, url
        self.rng = random.Random(args.seed)

    async def run(self, number: int, fault: signal.Signals) -> FaultRun:
        pids = {instance.id: instance for instance in (await self.shoal.status_soon()).ready()}
        records, tasks = self._records(), []
        async with AsyncExitStack() as stack:
            clients = await self._clients(stack, number)
            tasks = [asyncio.create_task(client.run(record)) for client, record in zip(clients, records, strict=True)]
            await self._producing(records)
            victim = self._victim(records, pids)
            try:
                fault_s = time.perf_counter()
                os.kill(victim.pid, fault)
                result = FaultRun(fault.name, victim.id, _served(records), await _took_effect(victim.pid, fault))
                await asyncio.wait(tasks, timeout=self.args.stream_timeout)
            finally:
                if fault is signal.SIGSTOP:
                    with suppress(ProcessLookupError):
                        os.kill(victim.pid, signal.SIGCONT)
            await _cancel(tasks, records)
        result.rejoin_s = await self._rejoined(victim, fault, fault_s)
        references = await self._references(number)
        result.streams = [
            judge(got, wanted, victim.id, fault_s) for got, wanted in zip(records, references, strict=True)
        ]
        result.errors = [f"{record.error_kind}: {record.error_text}" for record in records if record.error_kind]
        return result

    def _records(self) -> list[Record]:
        return [
            Record(LoadRequest(index, 0.0, self.args.input_tokens, self.args.output_tokens))
            for index in range(len(SAMPLINGS))
        ]

    async def _clients(
        self, stack: AsyncExitStack, number: int, extra: dict[str, Any] | None = None
    ) -> list[HttpClient]:
        prompts = PromptMaker((self.args.seed << 20) + number, self.args.vocabulary)
        targets = [
            HttpTarget(
                self.url,
                MODEL_NAME,
                extra={"return_token_ids": True, "seed": number * 10 + index, **sampling, **(extra or {})},
                request_timeout_s=self.args.stream_timeout,
            )
            for index, sampling in enumerate(SAMPLINGS)
        ]
        return [await stack.enter_async_context(HttpClient(target, prompts)) for target in targets]

    async def _producing(self, records: Sequence[Record]) -> None:
        """Until each has some tokens, and the fastest one has many more to come."""
        wanted = self.rng.randint(FIRST_FAULT_TOKEN, LAST_FAULT_TOKEN)
        deadline_s = time.perf_counter() + self.args.stream_timeout
        while min(record.output_tokens for record in records) < wanted:
            failed = [record for record in records if record.end is End.FAILED]
            if failed or time.perf_counter() > deadline_s:
                words = [f"{record.error_kind} {record.error_text}" for record in failed] or ["no tokens in time"]
                raise ServerFault(f"before any fault: {words[0]}")
            await asyncio.sleep(0.005)

    def _victim(self, records: Sequence[Record], instances: dict[str, InstanceStatus]) -> InstanceStatus:
        serving = sorted({record.instance for record in records if record.end is End.PENDING} & instances.keys())
        if not serving:
            raise ServerFault(
                f"no stream names a ready instance: headers {_served(records)}, ready {sorted(instances)}"
            )
        return instances[self.rng.choice(serving)]

    async def _rejoined(self, victim: InstanceStatus, fault: signal.Signals, fault_s: float) -> float | None:
        while (passed_s := time.perf_counter() - fault_s) < self.args.rejoin_timeout:
            with suppress(ShoalError):
                status = await self.shoal.status_soon()
                if _is_back(status, victim, fault):
                    return time.perf_counter() - fault_s
                if any(seen.id == victim.id and seen.state == QUARANTINED for seen in status.instances):
                    # Three deaths in five minutes are a fault of the instance; here they are ours, so do what a person
                    # would do. The time that it takes counts.
                    await self.shoal.revive_soon(victim.id)
            await asyncio.sleep(0.3 if passed_s < 30 else 1.0)
        return None

    async def _references(self, number: int) -> list[Record]:
        records = self._records()
        async with AsyncExitStack() as stack:
            clients = await self._clients(stack, number, {"prompt_logprobs": 0})
            await asyncio.gather(*(client.run(record) for client, record in zip(clients, records, strict=True)))
        if failed := [record for record in records if record.end is not End.COMPLETED]:
            raise ServerFault(f"undisturbed run: {failed[0].error_kind}: {failed[0].error_text}")
        if any(len(record.token_ids) != self.args.output_tokens for record in records):
            raise ServerFault("undisturbed run: the server gave no token ids, so there is nothing to compare")
        return records


def _served(records: Sequence[Record]) -> dict[str, int]:
    names = [record.instance for record in records]
    return {name: names.count(name) for name in sorted(set(names))}


async def _took_effect(pid: int, fault: signal.Signals) -> bool:
    deadline_s = time.perf_counter() + EFFECT_WITHIN_S
    while process_state(pid) not in EFFECT[fault]:
        if time.perf_counter() > deadline_s:
            return False
        await asyncio.sleep(0.001)
    return True


async def _cancel(tasks: Sequence[asyncio.Task[None]], records: Sequence[Record]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for record in records:
        if record.end is End.PENDING:
            record.fail(time.perf_counter(), "timeout", f"{record.output_tokens} tokens, then nothing")


def _is_back(status: Status, victim: InstanceStatus, fault: signal.Signals) -> bool:
    """A killed one is back with another process; a frozen one with either."""
    return any(seen.id == victim.id and (fault is signal.SIGSTOP or seen.pid != victim.pid) for seen in status.ready())


def score(runs: Sequence[FaultRun]) -> dict[str, Any]:
    """Pure: the numbers of the result."""
    streams = [stream for run in runs for stream in run.streams]
    recoveries_ms = [stream.recovery_ms for stream in streams if stream.recovery_ms is not None]
    rejoins_s = [run.rejoin_s for run in runs if run.rejoin_s is not None]
    by_fault: dict[str, list[float]] = {}
    for run in runs:
        if run.rejoin_s is not None:
            by_fault.setdefault(run.fault, []).append(run.rejoin_s)
    return {
        "runs": len(runs),
        "faults_proved": sum(run.proved for run in runs),
        "streams": len(streams),
        "streams_affected": sum(stream.affected for stream in streams),
        "token_mismatches": sum(stream.token_mismatches for stream in streams),
        "text_mismatches": sum(not stream.text_equal for stream in streams),
        "lost_requests": sum(stream.lost for stream in streams),
        "recovery_ms_p50": stats.median(recoveries_ms) if recoveries_ms else None,
        "recovery_ms_p99": stats.percentile(recoveries_ms, 99) if recoveries_ms else None,
        "recovery_ms_max": max(recoveries_ms, default=None),
        "rejoin_s_p50": stats.median(rejoins_s) if rejoins_s else None,
        "rejoin_s_p50_by_fault": {name: stats.median(times_s) for name, times_s in by_fault.items()},
        "not_rejoined": sum(run.rejoin_s is None for run in runs),
    }


async def _all_runs(args: argparse.Namespace, bench: Bench, deadline_s: float) -> list[FaultRun]:
    runs: list[FaultRun] = []
    longest_s = 0.0
    for number in tqdm(range(args.runs), unit="fault", file=sys.stderr):
        began_s = time.monotonic()
        if began_s + longest_s > deadline_s:
            break
        runs.append(await bench.run(number, FAULTS[number % len(FAULTS)]))
        longest_s = max(longest_s, time.monotonic() - began_s)
    return runs


def run(args: argparse.Namespace) -> Outcome:
    deadline_s = time.monotonic() + args.timeout
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-bench-")))
        shoal = stack.enter_context(
            ShoalUnderTest(bench_config(args.model, args.instances, engine=args.engine), folder)
        )
        status = shoal.wait_up(args.start_timeout)
        runs = asyncio.run(_all_runs(args, Bench(args, shoal, status.frontends[0].url), deadline_s))
    return Outcome({**score(runs), "runs_asked": args.runs, "rows": [asdict(run) for run in runs]})


__all__ = ["FaultRun", "add_arguments", "run", "score"]
