"""The processes behind the slots: each incarnation from birth to death, and the stream to it meanwhile.

Owns processes and streams. What happens becomes events for `feed`; what instances say of loads and moves goes to the
planner. Nothing here decides who lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from shoal.cluster import membership as m
from shoal.cluster.launcher import InstanceProcess, Launcher, ProcessGone, Served
from shoal.cluster.observer import Outbox, observe
from shoal.cluster.planner import Planner
from shoal.cluster.spares import Spares
from shoal.instance.inner_tls import InnerTls
from shoal.proto.config import ClusterConfig
from shoal.proto.errors import ServerFault, StartFailed
from shoal.proto.v1 import instance_pb2 as pb

log = logging.getLogger("shoal.controller")
REATTACH_S = 0.2
LATER_NICENESS = 10  # when all start at once: the first one has the cores, so that the first token comes soon
DEATH_CHECKS_S = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)


@dataclass(slots=True)
class Live:
    """One incarnation's process and what it last said. `attached`: its stream is open."""

    process: InstanceProcess
    incarnation: int
    served: Served | None = None
    role: str = ""
    load: pb.Load = field(default_factory=pb.Load)
    outbox: Outbox = field(default_factory=asyncio.Queue)
    attached: bool = False


class Lives:
    """`slots` is the controller's own, read here. `attached` is called when a stream has opened."""

    def __init__(
        self,
        config: ClusterConfig,
        *,
        token: str,
        launcher: Launcher,
        slots: Mapping[str, m.Slot],
        feed: Callable[[str, m.Event], None],
        attached: Callable[[str], None],
    ) -> None:
        self.config, self.token, self.launcher = config, token, launcher
        self.tls = InnerTls.of(config.tls)
        self.slots, self.feed, self.attached = slots, feed, attached
        self.live: dict[str, Live] = {}
        self.spares = Spares(launcher, config.spares)
        self.planner: Planner
        self._starts = asyncio.Semaphore(max(1, os.cpu_count() or 1))
        self._tasks: set[asyncio.Task[None]] = set()
        self._runs: dict[str, asyncio.Task[None]] = {}

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def send(self, slot_id: str, frame: pb.Up) -> None:
        """Dropped where no stream is open."""
        live = self.live.get(slot_id)
        if live is not None and live.attached:
            live.outbox.put_nowait(frame)

    def pools(self) -> set[str]:
        """Addresses of the pools in use, one per node."""
        return {live.served.pool for live in self.live.values() if live.served and live.served.pool}

    # -- commands

    def start(self, slot_id: str, incarnation: int) -> None:
        self._runs[slot_id] = self.spawn(self._through(slot_id, incarnation))

    def kill(self, slot_id: str, incarnation: int, reason: str) -> None:
        self.spawn(self._kill(slot_id, incarnation, reason))

    def stop(self, slot_id: str, incarnation: int) -> None:
        self.spawn(self._stop(slot_id, incarnation))

    async def abandon(self) -> None:
        """Ends our work; the processes live on."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self) -> None:
        await self.abandon()
        await asyncio.gather(*(live.process.kill() for live in self.live.values()), return_exceptions=True)

    # -- one incarnation, from birth to death

    async def _through(self, slot_id: str, incarnation: int) -> None:
        try:
            async with self._starts:
                live = await self._bring_up(slot_id, incarnation)
            await self._listen(slot_id, live)
        except StartFailed as exc:
            await self._bury(slot_id, incarnation, m.StartFailed(incarnation, one_line(exc)))
        except ProcessGone as exc:
            await self._bury(slot_id, incarnation, m.Died(incarnation, one_line(exc)))
        except Exception as exc:  # a bug of ours must show as a death with words, not as a slot that starts for ever
            log.exception("%s#%d", slot_id, incarnation)
            await self._bury(slot_id, incarnation, m.Died(incarnation, f"{type(exc).__name__}: {one_line(exc)}"))

    async def _bring_up(self, slot_id: str, incarnation: int) -> Live:
        index = int(slot_id[1:])
        process = await self.spares.take() or await self.launcher.launch(f"instance-{index}-{incarnation}")
        live = self.live[slot_id] = Live(process, incarnation)
        core = index % (os.cpu_count() or 1) if self.config.engine.pin_cores else None
        telling = asyncio.create_task(self._tell_progress(slot_id, live))
        if index and not any(slot.state is m.InstanceState.READY for slot in self.slots.values()):
            process.renice(LATER_NICENESS)
        try:
            live.served = await process.start(slot_id, incarnation, core)
            process.renice(0)
        finally:
            telling.cancel()
        self.feed(slot_id, m.Started(incarnation, live.served.address, live.served.pid))
        return live

    async def _tell_progress(self, slot_id: str, live: Live) -> None:
        while True:
            with contextlib.suppress(ServerFault):
                self.feed(slot_id, m.Progress(live.incarnation, await live.process.progress()))
            await asyncio.sleep(0.3)

    async def _listen(self, slot_id: str, live: Live) -> None:
        """Attached for as long as the process lives. Raises ProcessGone when it does not any more."""
        assert live.served is not None

        def welcomed(welcome: pb.Welcome) -> None:
            live.role, live.load, live.attached = welcome.role, welcome.load, True
            self.planner.welcomed(slot_id, welcome)
            self._heartbeat(slot_id, live, step=-1)
            self.attached(slot_id)

        def heard(frame: pb.Down) -> None:
            match frame.WhichOneof("frame"):
                case "report":
                    live.load = frame.report.load
                    self.planner.reported(slot_id, frame.report)
                    self._heartbeat(slot_id, live, step=frame.report.step)
                case "moved":
                    self.planner.moved(slot_id, frame.moved)

        while self._is_current(slot_id, live):
            reason = await observe(
                live.served.address, self.token, live.outbox, welcomed=welcomed, heard=heard, tls=self.tls
            )
            live.attached = False
            self.planner.forget(slot_id)
            self.feed(slot_id, m.HeartbeatLost(live.incarnation, reason))
            await self._check_death(live, reason)

    def _heartbeat(self, slot_id: str, live: Live, *, step: int) -> None:
        predicted_step_s = live.load.predicted_step_ms / 1000
        self.feed(slot_id, m.Heartbeat(live.incarnation, step, live.load.stepping, predicted_step_s))

    async def _check_death(self, live: Live, reason: str) -> None:
        """A crash closes the stream a little before the process is gone; a cut link does not end it at all."""
        for wait_s in DEATH_CHECKS_S:
            await asyncio.sleep(wait_s)
            if await live.process.gone():
                raise ProcessGone(live.process.last_words() or f"process {live.process.pid} is gone ({reason})")
        await asyncio.sleep(REATTACH_S)

    def _is_current(self, slot_id: str, live: Live) -> bool:
        slot = self.slots.get(slot_id)
        return slot is not None and slot.incarnation == live.incarnation and slot.state in m.WITH_PROCESS

    async def _kill(self, slot_id: str, incarnation: int, reason: str) -> None:
        await self._end_run(slot_id, incarnation)
        await self._bury(slot_id, incarnation, m.Died(incarnation, reason))

    async def _end_run(self, slot_id: str, incarnation: int) -> None:
        """A process that is still being made must not appear after its death was told."""
        run, slot = self._runs.get(slot_id), self.slots.get(slot_id)
        if run is not None and slot is not None and slot.incarnation == incarnation:
            run.cancel()
            await asyncio.wait([run])

    async def _stop(self, slot_id: str, incarnation: int) -> None:
        live = self.live.get(slot_id)
        if live is not None and live.incarnation == incarnation:
            await live.process.stop()
        await self._end_run(slot_id, incarnation)
        await self._bury(slot_id, incarnation, m.Died(incarnation, "stopped"))

    async def _bury(self, slot_id: str, incarnation: int, event: m.Died | m.StartFailed) -> None:
        """The next incarnation may start only when nothing of this one is left, so: first the grave, then the news."""
        live = self.live.get(slot_id)
        if live is not None and live.incarnation == incarnation:
            await live.process.kill()
            if self.live.get(slot_id) is live:
                del self.live[slot_id]
                self.planner.forget(slot_id)
        self.feed(slot_id, event)

    # -- a controller before this one left them

    async def survivors(self) -> dict[str, Live]:
        """Processes found alive that serve a slot, the newest of each; the rest (spares, half started, mute) ends."""
        found: dict[str, Live] = {}
        for process in await self.launcher.survivors():
            known = await self._recognise(process)
            rival = found.get(known[0]) if known else None
            if known is None or (rival and rival.incarnation > known[1].incarnation):
                await process.kill()
                continue
            if rival:
                await rival.process.kill()
            found[known[0]] = known[1]
        return found

    async def _recognise(self, process: InstanceProcess) -> tuple[str, Live] | None:
        try:
            who = await process.identity()
        except ServerFault:
            return None
        return None if who.served is None else (who.instance_id, Live(process, who.incarnation, who.served))

    def go_on(self, slot_id: str, live: Live) -> None:
        assert live.served is not None
        self.live[slot_id] = live
        self.feed(slot_id, m.Found(live.incarnation, live.served.address, live.served.pid))
        self._runs[slot_id] = self.spawn(self._go_on(slot_id, live))

    async def _go_on(self, slot_id: str, live: Live) -> None:
        try:
            await self._listen(slot_id, live)
        except ProcessGone as exc:
            await self._bury(slot_id, live.incarnation, m.Died(live.incarnation, one_line(exc)))


def one_line(exc: BaseException) -> str:
    lines = str(exc).strip().splitlines()
    return (lines[-1] if lines else type(exc).__name__)[:300]


__all__ = ["Live", "Lives", "one_line"]
