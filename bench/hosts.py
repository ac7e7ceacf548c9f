"""Child processes of a benchmark that speak JSON lines: one when they serve, then an answer to each word that they are
sent. They end with their standard input, so none outlives the benchmark, however that ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from shoal.proto.errors import StartFailed

GRACE_S = 5.0
LINE_BYTES = 4 << 20


class Host:
    """`python -m MODULE ARGUMENTS...` in a context. One asks at a time."""

    def __init__(self, module: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self.module, self.arguments, self.log = module, list(arguments), log
        self.environment = {**os.environ, **environment}
        self.process: Process

    @property
    def pid(self) -> int:
        return self.process.pid

    async def __aenter__(self) -> Host:
        with self.log.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                self.module,
                *self.arguments,
                stdin=PIPE,
                stdout=PIPE,
                stderr=log,
                env=self.environment,
                limit=LINE_BYTES,
                start_new_session=True,
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            await asyncio.wait_for(self.process.wait(), GRACE_S)
        except TimeoutError:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            await self.process.wait()

    async def said(self, timeout_s: float) -> Any:
        """Its next line that is JSON; others are a library's chatter. Raises StartFailed."""
        try:
            async with asyncio.timeout(timeout_s):
                while line := await self._line():
                    with suppress(msgspec.DecodeError):
                        return msgspec.json.decode(line)
        except TimeoutError:
            raise StartFailed(f"{self.module}: no word from it in {timeout_s:.0f} s; {self._last_words()}") from None
        raise StartFailed(f"{self.module}: it ended; {self._last_words()}")

    async def ask(self, word: str, timeout_s: float) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n".encode())
        with suppress(ConnectionError):  # then it has ended, and `said` knows how
            await self.process.stdin.drain()
        return await self.said(timeout_s)

    async def _line(self) -> bytes:
        assert self.process.stdout is not None
        return await self.process.stdout.readline()

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return f"its last words: {lines[-1][:300]}" if lines else "it wrote nothing"


__all__ = ["Host"]
