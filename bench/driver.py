"""Sends the requests: open loop (each at its due time, whatever comes back) or closed loop (N at a time). Owns the
records of a run.

It ends by itself, at the deadline, or when `stop` is set; whatever is then unfinished is cancelled and recorded as
such, and what was never sent stays out of the records. An open loop never waits for an answer before it sends; being
late is the generator's own fault and is recorded with each request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from shoal.bench.record import End, Record
from shoal.bench.workload import LoadRequest

Finished = Callable[[Record], None]


class Client(Protocol):
    async def run(self, record: Record) -> None:
        """Sends the record's request and writes down its end."""


@dataclass(slots=True)
class Run:
    """The records in order of sending; `began_s` is the due time 0."""

    began_s: float = 0.0
    ended_s: float = 0.0
    interrupted: bool = False
    timed_out: bool = False
    records: list[Record] = field(default_factory=list)


def _ignore(_: Record) -> None:
    return


async def drive(
    client: Client,
    requests: Sequence[LoadRequest],
    *,
    timeout_s: float,
    concurrency: int | None = None,
    stop: asyncio.Event | None = None,
    finished: Finished = _ignore,
) -> Run:
    run, stop = Run(time.perf_counter()), stop or asyncio.Event()
    if concurrency is None:
        work = asyncio.create_task(_open_loop(client, requests, run, finished))
    else:
        work = asyncio.create_task(_closed_loop(client, requests, run, finished, concurrency))
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({work, stopped}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        run.interrupted = stop.is_set()
        run.timed_out = not work.done() and not run.interrupted
    finally:
        stopped.cancel()
        work.cancel()
        await asyncio.gather(work, stopped, return_exceptions=True)
    run.ended_s = time.perf_counter()
    _end_pending(run)
    if not work.cancelled():
        work.result()
    return run


async def _open_loop(client: Client, requests: Sequence[LoadRequest], run: Run, finished: Finished) -> None:
    async with asyncio.TaskGroup() as group:
        for request in requests:
            due_s = run.began_s + request.due_s
            # Also when late: only a wait, be it of 0 s, lets the tasks of former requests start.
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            group.create_task(_one(client, _new(run, request, due_s), finished))


async def _closed_loop(
    client: Client, requests: Sequence[LoadRequest], run: Run, finished: Finished, concurrency: int
) -> None:
    waiting = iter(requests)

    async def worker() -> None:
        for request in waiting:
            await _one(client, _new(run, request, time.perf_counter()), finished)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(worker())


def _new(run: Run, request: LoadRequest, due_s: float) -> Record:
    record = Record(request, due_s=due_s)
    run.records.append(record)
    return record


async def _one(client: Client, record: Record, finished: Finished) -> None:
    await client.run(record)
    finished(record)


def _end_pending(run: Run) -> None:
    run.records = [record for record in run.records if record.sent_s]
    for record in run.records:
        if record.end is End.PENDING:
            record.fail(run.ended_s, "interrupted" if run.interrupted else "timeout", "unfinished when the run ended")


__all__ = ["Client", "Finished", "Run", "drive"]
