"""Spare processes: vLLM imported, nothing loaded, so that a dead instance is replaced without paying the import.

Owns the spares. They warm up at the lowest priority where that can be undone, one after the other, and only when the
fleet is settled.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from shoal.cluster.launcher import InstanceProcess, Launcher
from shoal.proto.errors import ShoalError

log = logging.getLogger("shoal.spares")
IDLE_NICENESS = 19
RETRY_S = 30.0
CHECK_S = 5.0


class Spares:
    def __init__(self, launcher: Launcher, wanted: int) -> None:
        self._launcher, self._wanted = launcher, wanted
        self._spares: list[InstanceProcess] = []
        self._task: asyncio.Task[None] | None = None
        self._made = 0
        self._not_before_s = 0.0
        self._checked_s = 0.0

    @property
    def count(self) -> int:
        return len(self._spares)

    async def take(self) -> InstanceProcess | None:
        """The one that has warmed longest, at full priority; None if there is none alive."""
        while self._spares:
            spare = self._spares.pop(0)
            try:
                gone = await spare.gone()
            except BaseException:  # cancelled: it stays ours
                self._spares.insert(0, spare)
                raise
            if not gone:
                spare.renice(0)
                return spare
            await spare.kill()
        return None

    def tend(self, now_s: float) -> None:
        """Begins to make one if one is missing. Returns at once."""
        busy = self._task is not None and not self._task.done()
        if busy or now_s < self._not_before_s:
            return
        if len(self._spares) < self._wanted:
            self._task = asyncio.create_task(self._make(now_s))
        elif now_s - self._checked_s > CHECK_S and self._spares:
            self._checked_s = now_s
            self._task = asyncio.create_task(self._check())

    async def _make(self, now_s: float) -> None:
        self._made += 1
        spare: InstanceProcess | None = None
        try:
            spare = await self._launcher.launch(f"spare-{self._made}")
            spare.renice(IDLE_NICENESS)
            self._spares.append(spare)  # may be taken while it warms: still faster than a new one
            await spare.warm()
        except ShoalError as exc:
            log.warning("spare: %s", exc)
            self._not_before_s = now_s + RETRY_S
            if spare in self._spares:
                self._spares.remove(spare)
                await spare.kill()

    async def _check(self) -> None:
        for spare in list(self._spares):
            if await spare.gone() and spare in self._spares:
                self._spares.remove(spare)
                await spare.kill()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await asyncio.gather(*(spare.kill() for spare in self._spares), return_exceptions=True)
        self._spares.clear()


__all__ = ["Spares"]
