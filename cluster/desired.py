"""What the controller wants to outlive it, in the registry: nice to have, never waited for.

Owns the one background writer. The newest value wins; while the registry is away it is kept and tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

import msgspec

from shoal.cluster.registry import Registry, read, write
from shoal.proto.errors import ShoalError

log = logging.getLogger("shoal.desired")
KEY = "desired"
RETRY_S = 1.0


class Desired(msgspec.Struct, frozen=True):
    """`run_id` tells a restart of this cluster from a new one of the same name. No incarnation repeats under a name.

    `retiring`: wanted ones that a rolling restart has still to replace; `replacement`: the one that was added for the
    first of them. `router`: a RouterWanted, what people want of learned weights.
    """

    run_id: str
    wanted: tuple[str, ...]
    incarnations: dict[str, int] = {}
    retiring: tuple[str, ...] = ()
    replacement: str = ""
    roles: dict[str, str] = {}
    router: bytes = b""


class DesiredStore:
    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._newest: Desired | None = None
        self._writer: asyncio.Task[None] | None = None

    async def read(self) -> Desired | None:
        """None where there is nothing, it is garbage, or the registry is away."""
        try:
            return await read(self._registry, KEY, Desired)
        except ShoalError as exc:
            log.warning("registry: going on without what it holds: %s", exc)
            return None

    def write(self, desired: Desired) -> None:
        self._newest = desired
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())

    async def _write(self) -> None:
        while self._newest is not None:
            now, self._newest = self._newest, None
            try:
                await write(self._registry, KEY, now)
            except ShoalError as exc:
                log.warning("registry: not saved, will be tried again: %s", exc)
                self._newest = self._newest or now
                await asyncio.sleep(RETRY_S)

    async def close(self) -> None:
        if self._writer is not None:
            self._writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._writer
        await self._registry.close()


__all__ = ["Desired", "DesiredStore"]
