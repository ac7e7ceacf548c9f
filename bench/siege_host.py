"""Clients that mean no good, in a process of their own: its open files and its work are not the load generator's.

usage: python -m shoal.bench.siege_host HOST PORT IDLE SLOW ABUSE_PER_S
Prints {} once it runs. Then each line on its standard input is answered by one JSON line: `begin` opens the idle
connections (every other one asks /ping first, the rest say nothing) and starts the attacks; `end` stops them and says
what became of them. It ends when its standard input closes. It attacks loopback addresses only.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from shoal.proto.errors import InvalidArgument

PING = b"GET /ping HTTP/1.1\r\nhost: siege\r\n\r\n"
HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: siege\r\ncontent-type: application/json\r\n"
AT_ONCE = 200  # connections being opened
SLOW_BYTE_S = 0.5
ANSWER_S = 10.0


def abuses() -> Iterator[tuple[str, bytes]]:
    """Each is to be refused."""
    body = b'{"model": "x", "prompt": "' + b"x" * (2 << 20) + b'"}'
    return itertools.cycle(
        [
            ("long_header", HEAD + b"x-a: " + b"a" * (1 << 20) + b"\r\n\r\n"),
            ("many_headers", HEAD + b"".join(b"x-%d: 1\r\n" % n for n in range(10_000)) + b"\r\n"),
            ("long_body", HEAD + b"content-length: %d\r\n\r\n" % len(body) + body),
            ("chunked_body", HEAD + b"transfer-encoding: chunked\r\n\r\n%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"),
            ("deep_body", HEAD + b"content-length: 100000\r\n\r\n" + b"[" * 100_000),
            ("many_choices", HEAD + b'content-length: 41\r\n\r\n{"model": "x", "prompt": "", "n":10000000}'),
        ]
    )


class Siege:
    """Owns its connections and tasks from `begin` to `end`."""

    def __init__(self, host: str, port: int, *, idle: int, slow: int, abuse_per_s: float) -> None:
        if not ipaddress.ip_address(host).is_loopback:
            raise InvalidArgument("host", limit="a loopback address", given=host)
        self.host, self.port, self.idle, self.slow, self.abuse_per_s = host, port, idle, slow, abuse_per_s
        self.open: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def begin(self) -> dict[str, Any]:
        self.answers: Counter[str] = Counter()
        self.slow_cut, self.slow_longest_s, self.failed = 0, 0.0, 0
        began_s, gate = time.perf_counter(), asyncio.Semaphore(AT_ONCE)
        await asyncio.gather(*(self._idle(gate, asks=bool(n % 2)) for n in range(self.idle)))
        spawn = asyncio.get_running_loop().create_task
        self.tasks = [spawn(self._slow()) for _ in range(self.slow)]
        if self.abuse_per_s:
            self.tasks.append(spawn(self._abuse()))
        return {"idle_open": len(self.open), "failed": self.failed, "took_s": time.perf_counter() - began_s}

    async def end(self) -> dict[str, Any]:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        kept = sum(not reader.at_eof() for reader, _ in self.open)
        for _, writer in self.open:
            writer.transport.abort()
        self.open.clear()
        return {
            "idle_kept": kept,
            "slow_cut": self.slow_cut,
            "slow_longest_s": self.slow_longest_s,
            "answers": dict(self.answers),
        }

    async def _idle(self, gate: asyncio.Semaphore, *, asks: bool) -> None:
        async with gate:
            try:
                reader, writer = await asyncio.open_connection(self.host, self.port)
                if asks:
                    writer.write(PING)
                    async with asyncio.timeout(ANSWER_S):
                        await reader.readuntil(b"\r\n\r\n")
                self.open.append((reader, writer))
            except (OSError, EOFError, TimeoutError):
                self.failed += 1

    async def _slow(self) -> None:
        """One byte of headers at a time, until it is cut off; then again."""
        while True:
            began_s = time.perf_counter()
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(self.host, self.port)
                try:
                    for at in itertools.count():
                        writer.write(HEAD[at : at + 1] or b"a")
                        await asyncio.sleep(SLOW_BYTE_S)
                        if reader.at_eof() or writer.is_closing():
                            break
                    self.slow_cut += 1
                    self.slow_longest_s = max(self.slow_longest_s, time.perf_counter() - began_s)
                finally:
                    writer.transport.abort()
            await asyncio.sleep(SLOW_BYTE_S)

    async def _abuse(self) -> None:
        for name, request in abuses():
            self.answers[f"{name} {await self._answer(request)}"] += 1
            await asyncio.sleep(1 / self.abuse_per_s)

    async def _answer(self, request: bytes) -> str:
        """The status, or `cut`: refused without a word that could still be read."""
        try:
            reader, writer = await asyncio.open_connection(self.host, self.port)
            try:
                writer.write(request)
                async with asyncio.timeout(ANSWER_S):  # Python 3.11's wait_for may swallow the cancellation at the end
                    line = await reader.readline()
                return line.split(b" ")[1].decode() if line.startswith(b"HTTP/") else "cut"
            finally:
                writer.transport.abort()
        except TimeoutError:
            return "unanswered"
        except (OSError, EOFError):
            return "cut"


async def host(siege: Siege) -> None:
    print("{}", flush=True)
    acts = {"begin": siege.begin, "end": siege.end}
    while word := (await asyncio.to_thread(sys.stdin.readline)).strip():
        print(json.dumps(await acts[word]()), flush=True)
    os._exit(0)


def main(argv: list[str]) -> None:
    address, port, idle, slow, abuse_per_s = argv
    asyncio.run(host(Siege(address, int(port), idle=int(idle), slow=int(slow), abuse_per_s=float(abuse_per_s))))


if __name__ == "__main__":
    main(sys.argv[1:])


__all__ = ["Siege", "abuses"]
