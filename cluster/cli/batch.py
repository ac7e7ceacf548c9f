"""`shoal batch FILE.jsonl`: a file of requests in OpenAI's batch format, answered with what others leave over.

Requests go out as class offline, so the cluster places them only where capacity is spare; how many are in flight
follows what it takes: one more per round of successes, half as many whenever it says that it is full. Answers are
written as they come, to be continued by the same command after whatever ended it; what failed goes to a file of its
own and is asked again next time.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import aiohttp
from tqdm import tqdm

from shoal.cluster.cli.batch_file import BatchRequest, answer_line, answered, error_line, left_over, read_requests
from shoal.cluster.rundir import find
from shoal.proto.errors import Unavailable

FULL = frozenset({429, 503})
FIRST_IN_FLIGHT = 4
RETRY_S = 1.0
CONNECT_S = 30.0


@dataclass(slots=True)
class Throttle:
    """How many may be in flight: additive increase, multiplicative decrease."""

    most: int
    allowed: float = FIRST_IN_FLIGHT

    def took(self) -> None:
        self.allowed = min(self.allowed + 1 / self.allowed, self.most)

    def full(self) -> None:
        self.allowed = max(self.allowed / 2, 1.0)

    @property
    def in_flight(self) -> int:
        return min(int(self.allowed), self.most)


class Batch:
    """Owns the queue and what is in flight."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, requests: list[BatchRequest], most: int, out: IO[str]
    ) -> None:
        self.session, self.url = session, url.rstrip("/").removesuffix("/v1")
        self.queue, self.out = deque(requests), out
        self.throttle, self.failed, self.resume_s = Throttle(most), list[str](), 0.0
        self.bar = tqdm(total=len(requests), desc="batch", file=sys.stderr, disable=None)

    async def run(self, until_s: float) -> None:
        """Until all have an answer, or `until_s`: whoever has none by then expires."""
        flying: set[asyncio.Task[None]] = set()
        while (self.queue or flying) and time.monotonic() < until_s:
            while self.queue and len(flying) < self.throttle.in_flight and time.monotonic() >= self.resume_s:
                flying.add(asyncio.create_task(self._ask(self.queue.popleft())))
            wait_s = min(until_s - time.monotonic(), RETRY_S)
            if flying:
                done, flying = await asyncio.wait(flying, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            else:
                await asyncio.sleep(max(min(wait_s, self.resume_s - time.monotonic()), 0))
        for task in flying:
            task.cancel()
        await asyncio.gather(*flying, return_exceptions=True)
        self.failed += [error_line(request, "batch_expired", "its time was up") for request in self.queue]
        self.bar.close()

    async def _ask(self, request: BatchRequest) -> None:
        try:
            async with self.session.post(self.url + request.url, json=request.body) as answer:
                body: Any = await answer.json(content_type=None)
        except asyncio.CancelledError:
            self.queue.append(request)
            raise
        except (aiohttp.ClientError, ValueError) as exc:
            self._fail(error_line(request, "connection", f"{type(exc).__name__}: {exc}"))
            return
        if answer.status in FULL:
            self.throttle.full()
            self.resume_s = time.monotonic() + retry_s(answer.headers.get("retry-after", ""))
            self.queue.appendleft(request)
            return
        line = answer_line(request, answer.headers.get("x-shoal-request", ""), answer.status, body)
        if answer.status != 200:
            self._fail(line)
            return
        self.throttle.took()
        self.out.write(line + "\n")
        self.out.flush()
        self.bar.update()

    def _fail(self, line: str) -> None:
        self.failed.append(line)
        self.bar.update()


def retry_s(retry_after: str) -> float:
    """Seconds; a date, or nothing, counts as the default."""
    return float(retry_after) if retry_after.isdecimal() else RETRY_S


async def answer_all(
    url: str, key: str, requests: list[BatchRequest], out: IO[str], *, most: int, timeout_s: float
) -> list[str]:
    """Answers go to `out`. Returns a line for each that has none."""
    headers = {"x-shoal-class": "offline"} | ({"Authorization": f"Bearer {key}"} if key else {})
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)  # `run` ends them all
    async with aiohttp.ClientSession(headers=headers, connector=connector, timeout=timeout) as session:
        batch = Batch(session, url, requests, most, out)
        await batch.run(time.monotonic() + timeout_s)
    return batch.failed


def batch(arguments: argparse.Namespace) -> int:
    source: Path = arguments.file
    out = arguments.out or source.with_suffix(".out.jsonl")
    errors = out.with_suffix(".errors.jsonl")
    requests = left_over(read_requests(source), answered(out))
    url = arguments.url
    if not url:
        run = find(arguments.name)
        state = run.state()
        url = state.http if state and run.is_running() else ""
    if not url:
        raise Unavailable("not running; `shoal up` starts it, --url names another server")
    key = arguments.key or os.environ.get("SHOAL_API_KEY", "")
    with out.open("a") as file:
        failed = asyncio.run(answer_all(url, key, requests, file, most=arguments.parallel, timeout_s=arguments.timeout))
    errors.unlink(missing_ok=True)
    if failed:
        errors.write_text("".join(f"{line}\n" for line in failed))
    said_of_failed = f", {len(failed)} failed in {errors}" if failed else ""
    print(f"{len(requests) - len(failed)} answered in {out}{said_of_failed}")
    return 1 if failed else 0


__all__ = ["Batch", "Throttle", "answer_all", "batch"]
