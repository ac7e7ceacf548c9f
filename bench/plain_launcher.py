"""Instances as plain child processes, one each, without Ray: a launcher for the real controller in benchmarks and
tests.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path

from shoal.bench.hosts import Host
from shoal.cluster.launcher import Identity, ProcessGone, Served
from shoal.proto.errors import StartFailed

START_S = 200.0


class PlainProcess:
    """See InstanceProcess. The process itself is made by `start`."""

    def __init__(self, launcher: PlainLauncher, name: str) -> None:
        self.launcher, self.name, self.pid = launcher, name, 0
        self.host: Host | None = None
        self.who = Identity("", 0, None)

    async def warm(self) -> None:
        """Nothing is kept warm."""

    def renice(self, niceness: int) -> None:
        """They all start alike."""

    async def start(self, instance_id: str, incarnation: int, core: int | None) -> Served:
        words = [self.launcher.config_json, self.launcher.token, "1", instance_id[1:]]
        log = self.launcher.folder / f"{self.name}.log"
        self.host = await Host("shoal.bench.instance_host", words, log, self.launcher.environment).__aenter__()
        self.pid = self.host.pid
        if core is not None:
            os.sched_setaffinity(self.pid, {core})
        (one,) = (await self.host.said(START_S))["instances"]
        address = await self.launcher.through(instance_id, one["address"])
        served = Served(address, one["pid"], one["metrics"] or "")
        self.who = Identity(instance_id, incarnation, served)
        return served

    async def progress(self) -> str:
        return "starting"

    async def identity(self) -> Identity:
        if await self.gone():
            raise ProcessGone(self.last_words())
        return self.who

    async def stop(self) -> None:
        if self.host is not None and self.host.process.stdin is not None:
            with suppress(ConnectionError, TimeoutError):
                self.host.process.stdin.write(b"stop\n")
                await asyncio.wait_for(self.host.process.wait(), 5.0)

    async def gone(self) -> bool:
        return self.host is not None and self.host.process.returncode is not None

    async def kill(self) -> None:
        if self.host is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            await self.host.process.wait()
        self.launcher.processes = [one for one in self.launcher.processes if one is not self]

    def last_words(self) -> str:
        return f"{self.name} ended"


async def straight(_instance_id: str, address: str) -> str:
    return address


class PlainLauncher:
    """Outlives a controller, as processes do: the next one finds them in `survivors`. `through`: the address under
    which all others are told to find an instance, e.g. that of a proxy.
    """

    def __init__(
        self,
        config_json: str,
        token: str,
        folder: Path,
        environment: Mapping[str, str],
        through: Callable[[str, str], Awaitable[str]] = straight,
    ) -> None:
        self.config_json, self.token, self.folder, self.environment = config_json, token, folder, environment
        self.through = through
        self.processes: list[PlainProcess] = []

    async def launch(self, name: str) -> PlainProcess:
        if not self.folder.is_dir():
            raise StartFailed(f"{self.folder}: no folder for logs")
        self.processes.append(PlainProcess(self, name))
        return self.processes[-1]

    async def survivors(self) -> list[PlainProcess]:
        return [one for one in self.processes if not await one.gone()]


__all__ = ["PlainLauncher", "PlainProcess"]
