"""The seam between the controller and whatever makes instance processes: Ray in production, plain fakes in tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from shoal.proto.errors import ServerFault


class ProcessGone(ServerFault):
    """The process ended while something was asked of it. The message is one line."""


@dataclass(frozen=True, slots=True)
class Served:
    """What a started instance says of itself. `pool`: address of the pool that it uses."""

    address: str
    pid: int
    metrics: str = ""
    pool: str = ""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a process found alive is. `served` is None for one that serves nothing (a spare, or one still starting)."""

    instance_id: str
    incarnation: int
    served: Served | None


class InstanceProcess(Protocol):
    """One process, from birth to death. `pid` is 0 until known."""

    pid: int

    async def warm(self) -> None:
        """Import what is slow to import. Raises ProcessGone or StartFailed."""

    def renice(self, niceness: int) -> None:
        """Where the system allows the way back as well; else nothing happens."""

    async def start(self, instance_id: str, incarnation: int, core: int | None) -> Served:
        """Load, warm up, serve. Raises StartFailed with one line, or ProcessGone."""

    async def progress(self) -> str: ...

    async def identity(self) -> Identity:
        """Raises ProcessGone where it is gone or does not answer."""

    async def stop(self) -> None:
        """Finish and end the engine in good order. Bounded; never raises."""

    async def gone(self) -> bool:
        """Has it ended for certain? Slow is not gone."""

    async def kill(self) -> None:
        """End it and all that it started, and wait for that. After its death too: it reaps group and /dev/shm names."""

    def last_words(self) -> str:
        """What a dead process wrote last, in one line, or nothing."""


class Launcher(Protocol):
    async def launch(self, name: str) -> InstanceProcess:
        """A new process, just born. Raises StartFailed; if cancelled, nothing stays behind."""

    async def survivors(self) -> list[InstanceProcess]:
        """Processes of an earlier controller of this cluster."""


__all__ = ["Identity", "InstanceProcess", "Launcher", "ProcessGone", "Served"]
