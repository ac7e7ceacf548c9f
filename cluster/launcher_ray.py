"""Instance processes as Ray actors: detached, named, never restarted by Ray itself. Ray only places and makes them.

A process on this node is watched by its id. Its group and its /dev/shm names are reaped when it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from shoal.cluster import reaper
from shoal.cluster.launcher import Identity, InstanceProcess, ProcessGone, Served
from shoal.cluster.niceness import renice
from shoal.cluster.nodes import CONTROLLER, NAMESPACE, at_home
from shoal.cluster.pool_ray import open_pool
from shoal.instance.actor import InstanceActor
from shoal.proto.errors import ShoalError, StartFailed

T = TypeVar("T")
ANSWER_S = 5.0
BIRTH_S = 120.0
STOP_S = 3.0


class HostedInstance(InstanceActor):
    """InstanceActor that listens on its machine's address and can tell a new controller who it is."""

    who: tuple[str, int, dict[str, Any] | None] = ("", 0, None)

    def __init__(self, config_json: str, token: str) -> None:
        super().__init__(config_json, token)
        self.config = at_home(self.config)

    async def start(self, instance_id: str, incarnation: int, core: int | None) -> dict[str, Any]:
        self.who = (instance_id, incarnation, None)
        served = await super().start(instance_id, incarnation, core)
        self.who = (instance_id, incarnation, served)
        return served

    async def pool_address(self, block_bytes: int) -> str:
        return await open_pool(self.config.model_dump_json(), self.token, block_bytes)

    async def birth(self) -> tuple[int, str]:
        return os.getpid(), ray.get_runtime_context().get_node_id()

    async def identity(self) -> tuple[tuple[str, int, dict[str, Any] | None], tuple[int, str]]:
        return self.who, await self.birth()


class RayProcess:
    """One instance actor. Everything but Ray errors in, our errors out."""

    def __init__(self, handle: Any, *, name: str, run_id: str, logs: Path) -> None:
        self.handle, self.name, self.run_id, self.logs = handle, name, run_id, logs
        self.pid = 0
        self.local = True
        self.shm = reaper.ShmLedger()

    def _born(self, birth: tuple[int, str]) -> None:
        self.pid, self.local = birth[0], birth[1] == ray.get_runtime_context().get_node_id()

    async def await_birth(self, wait_s: float) -> None:
        self._born(await self._ask(self.handle.birth.remote(), wait_s))

    async def warm(self) -> None:
        await self._ask(self.handle.warm.remote())

    def renice(self, niceness: int) -> None:
        if self.local and self.pid:
            renice(self.pid, niceness)

    async def start(self, instance_id: str, incarnation: int, core: int | None) -> Served:
        served = await self._ask(self.handle.start.remote(instance_id, incarnation, core))
        await asyncio.to_thread(self._learn_shm)
        return Served(**served)

    async def progress(self) -> str:
        return str(await self._ask(self.handle.progress.remote(), ANSWER_S))

    async def identity(self) -> Identity:
        (instance_id, incarnation, served), birth = await self._ask(self.handle.identity.remote(), ANSWER_S)
        self._born(birth)
        await asyncio.to_thread(self._learn_shm)
        known = Served(**served) if served else None
        return Identity(instance_id, incarnation, known)

    async def stop(self) -> None:
        try:
            await self._ask(self.handle.stop.remote(), STOP_S)
        except ShoalError:
            return  # it is killed next

    async def gone(self) -> bool:
        if self.local and self.pid:
            return not reaper.is_alive(self.pid)
        try:
            await asyncio.wait_for(self.handle.ping.remote(), ANSWER_S)
        except RayActorError:
            return True
        except (RayError, TimeoutError):
            return False
        return False

    async def kill(self) -> None:
        await asyncio.to_thread(self._kill)

    def _kill(self) -> None:
        if self.local and self.pid:
            self._learn_shm()
            reaper.send([self.pid], reaper.KILL)
        with contextlib.suppress(RayError):  # it is dead already
            ray.kill(self.handle, no_restart=True)
        if self.local and self.pid:
            reaper.kill_until_gone(self._family)
            self.shm.remove()

    def _family(self) -> set[int]:
        itself = {self.pid} if reaper.is_alive(self.pid) and reaper.is_marked(self.pid, self.run_id) else set()
        return reaper.group_members(self.pid, self.run_id) | itself

    def _learn_shm(self) -> None:
        if self.local and self.pid:
            self.shm.look(self._family())

    def last_words(self) -> str:
        """The reason that the process itself wrote, in the log that Ray keeps of its stderr."""
        for log in self.logs.glob(f"worker-*-{self.pid}.err"):
            with log.open("rb") as file:
                file.seek(max(0, log.stat().st_size - 65536))
                lines = file.read().decode(errors="replace").splitlines()
            said = [line for line in lines if line.startswith("engine died: ")]
            if said:
                return said[-1][:300]
        return ""

    async def _ask(self, call: Awaitable[Any], timeout_s: float | None = None) -> Any:
        try:
            return await asyncio.wait_for(call, timeout_s)
        except RayTaskError as exc:
            cause = exc.cause if isinstance(exc.cause, ShoalError) else StartFailed(f"{self.name}: {_last_line(exc)}")
            raise cause from None
        except RayActorError as exc:
            words = self.last_words() if self.pid else ""
            raise ProcessGone(words or f"{self.name}: its process ended: {_reason(exc)}") from None
        except (TimeoutError, GetTimeoutError):
            raise ProcessGone(f"{self.name}: no answer in {timeout_s:g} s") from None
        except RayError as exc:
            raise ProcessGone(f"{self.name}: {_last_line(exc)}") from None


def _last_line(exc: BaseException) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(exc).__name__


def _reason(exc: RayActorError) -> str:
    """Ray's words on a death are a page; the line that names the cause is worth keeping."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    for line in lines:
        if "exit type" in line.lower() or "exit detail" in line.lower() or "memory" in line.lower():
            return line[:300]
    return lines[0][:300] if lines else type(exc).__name__


class RayLauncher:
    """Wraps InstanceActor; the options are the same for every instance.

    `place` names what a machine must offer; where it does, one with room may take `birth_s` to come.
    """

    def __init__(
        self,
        config_json: str,
        token: str,
        *,
        run_id: str,
        logs: Path,
        gpus: float = 0.0,
        place: Mapping[str, float] = MappingProxyType({}),
        birth_s: float = BIRTH_S,
    ) -> None:
        self._arguments, self._run_id, self._logs = (config_json, token), run_id, logs
        self._birth_s = birth_s
        self._options = {
            "namespace": NAMESPACE,
            "num_cpus": 0,
            "num_gpus": gpus,
            "resources": dict(place),
            "lifetime": "detached",
            "max_restarts": 0,
            "max_concurrency": 16,
        }

    async def launch(self, name: str) -> InstanceProcess:
        try:
            handle = ray.remote(HostedInstance).options(name=name, **self._options).remote(*self._arguments)
        except (RayError, ValueError) as exc:
            raise StartFailed(f"{name}: {_last_line(exc)}") from None
        process = RayProcess(handle, name=name, run_id=self._run_id, logs=self._logs)
        try:
            await process.await_birth(self._birth_s)
        except BaseException as exc:
            await process.kill()
            if isinstance(exc, ProcessGone):
                raise StartFailed(str(exc)) from None
            raise
        return process

    async def survivors(self) -> list[InstanceProcess]:
        names = await asyncio.to_thread(ray.util.list_named_actors, all_namespaces=True)
        ours = [
            n["name"] for n in names if n["namespace"] == NAMESPACE and n["name"].startswith(("instance-", "spare-"))
        ]
        found: list[InstanceProcess] = []
        for name in ours:
            try:
                handle = await asyncio.to_thread(ray.get_actor, name, NAMESPACE)
            except ValueError:
                continue  # it ended meanwhile
            found.append(RayProcess(handle, name=name, run_id=self._run_id, logs=self._logs))
        return found


__all__ = ["CONTROLLER", "NAMESPACE", "HostedInstance", "RayLauncher", "RayProcess"]
