"""The controller: keeps every wanted instance slot filled, moves requests between instances, and tells watchers who is
there.

Owns the slots. Each decision is made by pure code: `membership.advance` (who is alive), `fleet` (which slots there
shall be), the planner's rules (what moves), `router/scaling.py` (how many). This shell turns what happens (streams,
deaths, ticks) into events and performs the commands; processes are `lives`'. Requests and tokens never come through
here: serving goes on while it is gone. After its own death it finds its processes again and asks them who they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping

from shoal.cluster import fleet as f
from shoal.cluster import membership as m
from shoal.cluster.desired import Desired, DesiredStore
from shoal.cluster.launcher import Launcher
from shoal.cluster.lives import Live, Lives, one_line
from shoal.cluster.planner import Planner
from shoal.cluster.registry import Registry
from shoal.cluster.roles import assign, first_roles, inherit
from shoal.cluster.router_desk import RouterDesk
from shoal.proto.config import ClusterConfig
from shoal.proto.v1 import controller_pb2 as cpb
from shoal.proto.v1 import instance_pb2 as pb
from shoal.router.load import average_freeness
from shoal.router.roles import RoleState, change_role
from shoal.router.scaling import ScaleState, desired_count

log = logging.getLogger("shoal.controller")
TICK_S = 0.1
PLAN_S, LEAST_PLAN_S = 0.1, 0.01
STALLED_S = 1.0  # a tick this late says that we were slow, not they
CLOSE_TRIES = 100


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
        self.config, self.run_id, self.clock = config, run_id, clock
        self.desired = DesiredStore(registry)
        self.rules = rules or m.Rules(
            start_timeout_s=config.start_timeout_s, drain_limit_s=config.migration.drain_timeout_s
        )
        self.slots: dict[str, m.Slot] = {}
        self.fleet = f.Fleet(())
        self.incarnations: dict[str, int] = {}
        self.roles: dict[str, str] = {}  # those not named here are mixed
        self.role_state = RoleState()
        self.lives = Lives(
            config, token=token, launcher=launcher, slots=self.slots, feed=self.feed, attached=self._attached
        )
        self.planner = self.lives.planner = Planner(
            config.migration, self.lives.send, clock, role=lambda slot_id: self.roles.get(slot_id, "mixed")
        )
        self.scaling, self.desk = ScaleState(), RouterDesk()
        self.changed: Callable[[], None] = lambda: None
        self._closing = False

    @property
    def live(self) -> dict[str, Live]:
        return self.lives.live

    async def run(self) -> None:
        """Recovers what there is and begins what is missing. Returns at once; the work goes on in tasks."""
        kept = await self.desired.read()
        found = await self.lives.survivors()
        self.incarnations = dict(kept.incarnations) if kept else {}
        if kept and kept.run_id == self.run_id:
            self.fleet = f.Fleet(kept.wanted, kept.retiring, kept.replacement)
            self.roles = dict(kept.roles)
            self.desk = RouterDesk.of(kept.router)
        else:
            self.fleet = f.first_fleet(self.config.instances, {name: one.incarnation for name, one in found.items()})
            self.roles = first_roles(self.fleet.wanted, self.config.disaggregation)
        for slot_id, live in found.items():
            self._add_slot(slot_id)
            self.lives.go_on(slot_id, live)
        self._sync()
        self.lives.spawn(self._tick_for_ever())
        self.lives.spawn(self._plan_for_ever())

    async def close(self) -> None:
        """Everybody leaves in good order; whoever does not is killed."""
        self._closing = True
        await self.lives.spares.close()
        for slot_id in list(self.slots):
            self.feed(slot_id, m.Leave())
        for _ in range(CLOSE_TRIES):
            if all(slot.state not in m.WITH_PROCESS for slot in self.slots.values()):
                break
            await asyncio.sleep(0.05)
        await self.desired.close()
        await self.lives.close()

    # -- acts of people

    def revive(self, slot_id: str = "") -> list[str]:
        """Starts quarantined slots again: all, or the one named."""
        chosen = [s.id for s in self.slots.values() if s.state is m.InstanceState.QUARANTINED and slot_id in ("", s.id)]
        for one in chosen:
            self.feed(one, m.Begin())
        return chosen

    def scale(self, instances: int) -> None:
        self._become(f.scale(self.fleet, instances, self.states))

    def drain(self, slot_id: str) -> None:
        self._become(f.drain(self.fleet, slot_id))

    def restart(self) -> None:
        self._become(f.restart(self.fleet))

    def set_roles(self, roles: Mapping[str, str]) -> None:
        """Those not named keep theirs. Raises NotFound or InvalidArgument, and then nothing has changed."""
        wanted = assign(self.roles, roles, self.fleet.wanted)
        if wanted != self.roles:
            self.roles = wanted
            log.info("roles: %s", " ".join(f"{name}={role}" for name, role in sorted(wanted.items())))
            self._save()
            for slot_id in self.slots:
                self._published(slot_id)

    def steer(self, act: cpb.RouterAct) -> None:
        """Learned router weights: every frontend hears of it."""
        if self.desk.act(act):
            log.info("router: %s %s, %s", self.desk.wanted.stage, self.desk.wanted.version, self.desk.wanted.why)
            self._save()
            self.changed()

    @property
    def states(self) -> dict[str, m.InstanceState]:
        return {slot.id: slot.state for slot in self.slots.values()}

    # -- the set of slots

    def _become(self, fleet: f.Fleet) -> None:
        if fleet != self.fleet:
            log.info("wanted: %s %s", " ".join(fleet.wanted), fleet.words)
            self.fleet = fleet
            self.roles = inherit(self.roles, fleet.replacement, fleet.retiring)
            self._sync()
            self._save()

    def _sync(self) -> None:
        for slot_id in self.fleet.wanted:
            self._add_slot(slot_id)
            if self.slots[slot_id].state is m.InstanceState.STOPPED:
                self.feed(slot_id, m.Begin())
        for slot_id in [one for one in self.slots if one not in self.fleet.wanted]:
            self.feed(slot_id, m.Drain())

    def _add_slot(self, slot_id: str) -> None:
        if slot_id not in self.slots:
            incarnation = self.incarnations.get(slot_id, 0)
            self.slots[slot_id] = m.Slot(slot_id, incarnation=incarnation, since_s=self.clock())

    def _save(self) -> None:
        fleet = self.fleet
        self.desired.write(
            Desired(
                run_id=self.run_id,
                wanted=fleet.wanted,
                incarnations=dict(self.incarnations),
                retiring=fleet.retiring,
                replacement=fleet.replacement,
                roles=dict(self.roles),
                router=self.desk.raw,
            )
        )

    # -- one slot

    def feed(self, slot_id: str, event: m.Event) -> None:
        before = self.slots.get(slot_id)
        if before is None:  # late news of one that is gone for good
            return
        after, commands = m.advance(before, event, self.clock(), self.rules)
        self.slots[slot_id] = after
        self.incarnations[slot_id] = after.incarnation
        if after.state is not before.state:
            log.info("%s#%d %s -> %s %s", slot_id, after.incarnation, before.state.value, after.state.value, after.note)
        for command in commands:
            self._perform(slot_id, command)
        if after.state is m.InstanceState.STOPPED and slot_id not in self.fleet.wanted and not self._closing:
            del self.slots[slot_id]
            self._published(slot_id)

    def _perform(self, slot_id: str, command: m.Command) -> None:
        match command:
            case m.StartInstance(incarnation):
                self._save()
                self.lives.start(slot_id, incarnation)
            case m.KillInstance(incarnation, reason):
                self.lives.kill(slot_id, incarnation, reason)
            case m.StopInstance(incarnation):
                self.lives.stop(slot_id, incarnation)
            case m.Publish():
                self._published(slot_id)

    # -- what instances are told

    def _attached(self, slot_id: str) -> None:
        slot = self.slots[slot_id]
        told_to_drain = self.live[slot_id].load.draining and slot_id in self.fleet.wanted
        if told_to_drain and slot.state is m.InstanceState.READY and len(self.fleet.wanted) > 1:
            self._become(f.drain(self.fleet, slot_id))  # by a controller before this one
        for one in self.slots:  # it is a peer of the others from now on, if it was ready already
            self._tell(one, steer=one == slot_id)

    def _published(self, slot_id: str) -> None:
        self.changed()
        for one in self.slots:
            self._tell(one, steer=one == slot_id)

    def _tell(self, slot_id: str, *, steer: bool = True) -> None:
        sights = self.planner.sights
        if slot_id not in sights:
            return
        ready = [s for s in self.slots.values() if s.state is m.InstanceState.READY and s.id != slot_id]
        alike = {s.id: s.address for s in ready if s.id in sights and sights[s.id].kind == sights[slot_id].kind}
        self.lives.send(slot_id, pb.Up(peers=pb.Peers(addresses=alike)))
        if steer:
            draining = self.slots[slot_id].state in m.LEAVING
            role = self.roles.get(slot_id, "mixed")
            self.lives.send(slot_id, pb.Up(steer=pb.Steer(draining=draining, role=role)))

    # -- time

    async def _tick_for_ever(self) -> None:
        last_s = self.clock()
        while True:
            await asyncio.sleep(TICK_S)
            now_s = self.clock()
            stalled, last_s = now_s - last_s > STALLED_S, now_s
            if not stalled:  # else heartbeats that came meanwhile are still unread: judge nobody now
                self._tick(now_s)

    def _tick(self, now_s: float) -> None:
        for slot_id in list(self.slots):
            self.feed(slot_id, m.Tick())
        for slot in list(self.slots.values()):
            if slot.state is m.InstanceState.DRAINING and self.planner.is_empty(slot.id, now_s):
                self.feed(slot.id, m.Emptied(slot.incarnation))
        if self._closing:
            return
        self._become(f.advance_restart(self.fleet, self.states))
        if self.config.scaling.enabled and not self.fleet.retiring:
            self._autoscale(now_s)
        if self.config.disaggregation.adaptive:
            self._adapt_roles(now_s)
        if all(slot.state is not m.InstanceState.STARTING for slot in self.slots.values()):
            self.lives.spares.tend(now_s)

    def _autoscale(self, now_s: float) -> None:
        """Not while anybody starts or leaves: what is coming is not free yet, what goes still counts."""
        if any(state is not m.InstanceState.READY for state in self.states.values()):
            return
        hosts = self.planner.hosts(self.slots.values())
        average = average_freeness(hosts, self.config.migration.headroom_tokens)
        count = len(self.fleet.wanted)
        self.scaling, wanted = desired_count(self.scaling, average, count, now_s, self.config.scaling)
        if wanted != count:
            log.info("average freeness %.0f tokens: %d instances, not %d", average, wanted, count)
            self.scale(wanted)

    def _adapt_roles(self, now_s: float) -> None:
        lone_s = self.config.slo.decode_step_ms / 1e3
        hosts, rules = self.planner.hosts(self.slots.values()), self.config.disaggregation
        self.role_state, change = change_role(self.role_state, hosts, now_s, lone_s, rules)
        if change is not None:
            self.set_roles({change.instance: change.role.value})

    async def _plan_for_ever(self) -> None:
        while True:
            await asyncio.sleep(LEAST_PLAN_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PLAN_S - LEAST_PLAN_S):  # 3.11's wait_for may swallow the end of this task
                    await self.planner.crossed.wait()
            try:
                self.planner.plan(self.slots.values())
            except Exception:  # a plan that fails must not end planning: drains depend on it
                log.exception("no plan this time")
                await asyncio.sleep(PLAN_S)


__all__ = ["Controller", "Live", "one_line"]
