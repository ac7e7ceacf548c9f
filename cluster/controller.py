"""The controller: keeps every instance slot of the cluster filled, and tells watchers who is there.

Owns the slots and their processes. Each decision is `membership.advance`'s; this shell turns what happens (streams,
deaths, ticks) into events and performs the commands. Requests, tokens and loads of the router never come through here:
serving goes on while it is gone. After its own death it finds its processes again and asks them who they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from shoal.cluster import membership as m
from shoal.cluster.desired import Desired, DesiredStore
from shoal.cluster.launcher import InstanceProcess, Launcher, ProcessGone, Served
from shoal.cluster.observer import observe
from shoal.cluster.registry import Registry
from shoal.cluster.spares import Spares
from shoal.proto.config import ClusterConfig
from shoal.proto.errors import ServerFault, StartFailed
from shoal.proto.v1 import instance_pb2 as pb

log = logging.getLogger("shoal.controller")
TICK_S = 0.1
STALLED_S = 1.0  # a tick this late says that we were slow, not they
REATTACH_S = 0.2
LATER_NICENESS = 10  # when all start at once: the first one has the cores, so that the first token comes soon
DEATH_CHECKS_S = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)


@dataclass(slots=True)
class Live:
    """One incarnation's process and what it last said."""

    process: InstanceProcess
    incarnation: int
    served: Served | None = None
    role: str = ""
    load: pb.Load = field(default_factory=pb.Load)


class Controller:
    """Lives on one event loop. `changed` is called after each change that watchers must hear of."""

    def __init__(
        self,
        config: ClusterConfig,
        *,
        token: str,
        run_id: str,
        launcher: Launcher,
        registry: Registry,
        rules: m.Rules | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config, self.token, self.run_id = config, token, run_id
        self.launcher, self.clock = launcher, clock
        self.desired = DesiredStore(registry)
        self.rules = rules or m.Rules(start_timeout_s=config.start_timeout_s)
        self.slots: dict[str, m.Slot] = {}
        self.live: dict[str, Live] = {}
        self.spares = Spares(launcher, config.spares)
        self.changed: Callable[[], None] = lambda: None
        self._starts = asyncio.Semaphore(max(1, os.cpu_count() or 1))
        self._tasks: set[asyncio.Task[None]] = set()
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._closing = False

    async def run(self) -> None:
        """Recovers what there is and begins what is missing. Returns at once; the work goes on in tasks."""
        kept = await self.desired.read()
        count = kept.instances if kept and kept.run_id == self.run_id else self.config.instances
        incarnations = kept.incarnations if kept else {}
        for index in range(count):
            slot_id = f"i{index}"
            self.slots[slot_id] = m.Slot(slot_id, incarnation=incarnations.get(slot_id, 0), since_s=self.clock())
        await self._recover()
        for slot_id in self.slots:
            self.feed(slot_id, m.Begin())
        self._spawn(self._tick_for_ever())

    async def close(self) -> None:
        """Everybody leaves in good order; whoever does not is killed."""
        self._closing = True
        await self.spares.close()
        for slot_id in self.slots:
            self.feed(slot_id, m.Leave())
        for _ in range(100):
            if all(slot.state not in m.WITH_PROCESS for slot in self.slots.values()):
                break
            await asyncio.sleep(0.05)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, self.desired.close(), return_exceptions=True)
        await asyncio.gather(*(live.process.kill() for live in self.live.values()), return_exceptions=True)

    def revive(self, slot_id: str = "") -> list[str]:
        """Starts quarantined slots again: all, or the one named."""
        chosen = [s.id for s in self.slots.values() if s.state is m.InstanceState.QUARANTINED and slot_id in ("", s.id)]
        for one in chosen:
            self.feed(one, m.Begin())
        return chosen

    def feed(self, slot_id: str, event: m.Event) -> None:
        before = self.slots[slot_id]
        after, commands = m.advance(before, event, self.clock(), self.rules)
        self.slots[slot_id] = after
        if after.state is not before.state:
            log.info("%s#%d %s -> %s %s", slot_id, after.incarnation, before.state.value, after.state.value, after.note)
        for command in commands:
            self._perform(slot_id, command)

    def _perform(self, slot_id: str, command: m.Command) -> None:
        match command:
            case m.StartInstance(incarnation):
                self._save()
                self._runs[slot_id] = self._spawn(self._live_through(slot_id, incarnation))
            case m.KillInstance(incarnation, reason):
                self._spawn(self._kill(slot_id, incarnation, reason))
            case m.StopInstance(incarnation):
                self._spawn(self._stop(slot_id, incarnation))
            case m.Publish():
                self.changed()

    def _save(self) -> None:
        incarnations = {slot.id: slot.incarnation for slot in self.slots.values()}
        self.desired.write(Desired(self.run_id, len(self.slots), incarnations))

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- one incarnation, from birth to death -------------------------------------------------------------------------

    async def _live_through(self, slot_id: str, incarnation: int) -> None:
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

        def welcomed(welcome: pb.Welcome) -> None:
            live.role, live.load = welcome.role, welcome.load
            self._heartbeat(slot_id, live, step=-1)

        def reported(report: pb.StepReport) -> None:
            if report.HasField("load"):
                live.load = report.load
            self._heartbeat(slot_id, live, step=report.step)

        assert live.served is not None
        while self._is_current(slot_id, live):
            reason = await observe(live.served.address, self.token, welcomed=welcomed, reported=reported)
            self.feed(slot_id, m.HeartbeatLost(live.incarnation, reason))
            await self._check_death(live, reason)

    def _heartbeat(self, slot_id: str, live: Live, *, step: int) -> None:
        predicted_step_s = live.load.step_ms / 1000
        self.feed(slot_id, m.Heartbeat(live.incarnation, step, live.load.stepping, predicted_step_s))

    async def _check_death(self, live: Live, reason: str) -> None:
        """A crash closes the stream a little before the process is gone; a cut link does not end it at all."""
        for wait_s in DEATH_CHECKS_S:
            await asyncio.sleep(wait_s)
            if await live.process.gone():
                raise ProcessGone(live.process.last_words() or f"process {live.process.pid} is gone ({reason})")
        await asyncio.sleep(REATTACH_S)

    def _is_current(self, slot_id: str, live: Live) -> bool:
        slot = self.slots[slot_id]
        return slot.incarnation == live.incarnation and slot.state in m.WITH_PROCESS

    async def _kill(self, slot_id: str, incarnation: int, reason: str) -> None:
        await self._end_run(slot_id, incarnation)
        await self._bury(slot_id, incarnation, m.Died(incarnation, reason))

    async def _end_run(self, slot_id: str, incarnation: int) -> None:
        """A process that is still being made must not appear after its death was told."""
        run = self._runs.get(slot_id)
        if run is not None and self.slots[slot_id].incarnation == incarnation:
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
        self.feed(slot_id, event)

    # -- the whole fleet ----------------------------------------------------------------------------------------------

    async def _tick_for_ever(self) -> None:
        last_s = self.clock()
        while True:
            await asyncio.sleep(TICK_S)
            now_s = self.clock()
            stalled, last_s = now_s - last_s > STALLED_S, now_s
            if stalled:
                continue  # heartbeats that came meanwhile are still unread: judge nobody now
            for slot_id in self.slots:
                self.feed(slot_id, m.Tick())
            settled = all(slot.state is not m.InstanceState.STARTING for slot in self.slots.values())
            if settled and not self._closing:
                self.spares.tend(now_s)

    async def _recover(self) -> None:
        found: dict[str, Live] = {}
        for process in await self.launcher.survivors():
            live = await self._recognise(process)
            rival = found.get(live[0]) if live else None
            if live is None or (rival and rival.incarnation > live[1].incarnation):
                await process.kill()
                continue
            if rival:
                await rival.process.kill()
            found[live[0]] = live[1]
        for slot_id, one in found.items():
            assert one.served is not None
            self.live[slot_id] = one
            self.feed(slot_id, m.Found(one.incarnation, one.served.address, one.served.pid))
            self._runs[slot_id] = self._spawn(self._live_on(slot_id, one))

    async def _recognise(self, process: InstanceProcess) -> tuple[str, Live] | None:
        """A process that serves one of our slots; None for any other (spare, half started, mute)."""
        try:
            who = await process.identity()
        except ServerFault:
            return None
        if who.served is None or who.instance_id not in self.slots:
            return None
        return who.instance_id, Live(process, who.incarnation, who.served)

    async def _live_on(self, slot_id: str, live: Live) -> None:
        try:
            await self._listen(slot_id, live)
        except ProcessGone as exc:
            await self._bury(slot_id, live.incarnation, m.Died(live.incarnation, one_line(exc)))


def one_line(exc: BaseException) -> str:
    lines = str(exc).strip().splitlines()
    return (lines[-1] if lines else type(exc).__name__)[:300]


__all__ = ["Controller", "Live", "one_line"]
