"""A cluster on a virtual clock, in one thread: real servers, real dispatcher, real machines and ledgers; what is
replaced is time, threads and wires. A second costs as little as what happens in it, so tens of thousands of faults can
be tried.

Instances can be killed at any fail-point of a move, frontends too, and wires cut, at once or in silence. Which instance
a line of product code runs for is known by a context variable, so that a fault hits the one that it is meant for.
"""

import asyncio
import contextlib
import selectors
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from shoal.cluster import handovers as handovers_module
from shoal.cluster.dispatcher import Dispatcher
from shoal.cluster.link import Link, LinkEnd
from shoal.instance.engine_factory import FAKE_VERSION_FOR_FRONTENDS
from shoal.instance.fake_engine import FakeEngine
from shoal.instance.migration import arrival as arrival_module
from shoal.instance.migration import departure as departure_module
from shoal.instance.migration.budget import BudgetLimits
from shoal.instance.migration.desk import MoveDesk
from shoal.instance.migration.line import LineLost
from shoal.instance.server import PROTOCOL, InstanceServer
from shoal.instance.stepper import Stepper
from shoal.proto import codec
from shoal.proto.codec import WireOutputs
from shoal.proto.config import AdmissionConfig, EngineConfig, FakeEngineConfig
from shoal.proto.seal import Sealer
from shoal.proto.v1 import instance_pb2 as pb
from shoal.router.profile import build_policy
from tests.tools.mini_cluster import MiniFrontend

HERE: ContextVar[str] = ContextVar("instance", default="")
STEP_S = 0.008
BLOCK_SIZE = 4
WIRE_S = (0.0001, 0.002)


class _NoSelect(selectors.SelectSelector):
    """Instead of waiting, the clock is set."""

    loop: Any = None

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("nobody will ever wake anybody")
        self.loop.now_s += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.now_s = 0.0
        selector = _NoSelect()
        super().__init__(selector)
        selector.loop = self

    def time(self) -> float:
        return self.now_s

    def _write_to_self(self) -> None:
        """There is no other thread."""


class VirtualStepper(Stepper):
    """Steps by the clock. Commands take effect between two steps, as on the real one."""

    def start(self) -> None:
        self.loop, self.turning = asyncio.get_running_loop(), False

    def ask(self, act: Callable[[], Any]) -> Any:
        future = super().ask(act)
        self._turn_soon(0.0)
        return future

    def _turn_soon(self, after_s: float) -> None:
        if not self.turning:
            self.turning = True
            self.loop.call_later(after_s, self._turn)

    def _turn(self) -> None:
        self.turning = False
        if self.death is not None or not self._drain():
            return
        self._retry_not_ready()
        if self.engine.has_work():
            self.turning = True
            self.loop.call_later(STEP_S, self._end_step)
        elif self.unreported:
            self._report([])

    def _end_step(self) -> None:
        if self.death is None:
            self._step_once()
            self._turn()

    def stop(self) -> None:
        self.death = "stopped"


class VirtualCopier:
    """Things happen in the order asked, each a little later."""

    def __init__(self, rng: Random) -> None:
        self.rng, self.lock = rng, asyncio.Lock()

    async def run(self, act: Callable[[], Any]) -> Any:
        async with self.lock:
            await asyncio.sleep(self.rng.uniform(0.0, 0.004))
            return act()

    async def idle(self) -> None:
        async with self.lock:
            pass

    def stop(self) -> None:
        pass


class VirtualInstance:
    """One life. `die` is SIGKILL: nothing of it runs any more, its peers hear of it a little later."""

    def __init__(self, world: "World", name: str, fake: FakeEngineConfig, engine: EngineConfig) -> None:
        self.world, self.name, self.alive = world, name, True
        self.engine = FakeEngine(
            engine, fake, model="m", vllm_version=FAKE_VERSION_FOR_FRONTENDS, sleep_s=lambda _s: None
        )
        self._make_parking_wait()
        self.server = InstanceServer(
            self.engine, instance_id=name, role="mixed", token="", pid=1, on_death=print, clock=world.clock_of(name)
        )
        self.server.stepper = VirtualStepper(self.engine, self.server._from_step_thread, print)
        limits = BudgetLimits(in_flight_bytes=4096, least_parcel_bytes=1024)
        self.server.desk = MoveDesk(
            self.server,
            dial=lambda address: VirtualLine(world, self, world.instances[address]),
            limits=limits,
            copier=VirtualCopier(world.rng),  # type: ignore[arg-type]
        )
        if world.rng.random() < 0.8:
            self.server.desk.means = replace(self.server.desk.means, same_node=False)
        self.tasks: set[asyncio.Task[Any]] = set()

    def _make_parking_wait(self) -> None:
        """As with asynchronous scheduling: now and then its tokens are in flight."""
        park = self.engine.mover.park
        self.engine.mover.park = lambda engine_id: (  # type: ignore[method-assign]
            False if self.world.rng.random() < 0.3 else park(engine_id)
        )

    def run(self, act: Callable[[], Any]) -> Any:
        """In this instance's name."""
        if not self.alive:
            return None
        token = HERE.set(self.name)
        try:
            return act()
        finally:
            HERE.reset(token)

    def spawn(self, work: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = self.run(lambda: asyncio.get_running_loop().create_task(work))
        self.tasks.add(task)
        return task

    def start(self) -> None:
        self.run(self.server.start)

    def die(self) -> None:
        if not self.alive:
            return
        self.alive = False
        self.server.stepper.death = "killed"
        desk = self.server.desk
        acts = [act for departure in desk.departures.values() for act in departure.acts]
        for task in [*self.tasks, *self.server.tasks, *desk.tasks, *acts]:
            task.cancel()
        for departure in desk.departures.values():
            if departure.segment is not None:
                departure.segment.unlink()  # the reaper's part
        self.world.loop.call_later(0.002, lambda: self.world.bury(self.name))

    def leaks(self) -> list[str]:
        if not self.alive:
            return []
        self.engine.check()
        self.server.holdings.check()
        load, desk = self.engine.load(), self.server.desk
        found = [] if (load.free_blocks, load.running, load.waiting) == (load.total_blocks, 0, 0) else [f"P2 {load}"]
        left = (self.server.holdings.by_engine_id, desk.departures, desk.arrivals, self.engine._requests)
        found += [f"{len(one)} left of {one!r:.200}" for one in left if one]
        if desk.means.budget.moves:
            found.append(f"budget: {desk.means.budget.moves} moves")
        return [f"{self.name}: {line}" for line in found]


class Wire:
    """One direction: order kept, each frame a little later; `cut` loses all from then on."""

    def __init__(self, world: "World") -> None:
        self.world, self.free_s, self.cut = world, 0.0, False
        self.wait_s = WIRE_S

    async def carry(self) -> bool:
        """Waits its time. False: it is lost."""
        now_s = self.world.loop.time()
        self.free_s = max(self.free_s, now_s + self.world.rng.uniform(*self.wait_s))
        await asyncio.sleep(self.free_s - now_s)
        return not self.cut


class VirtualLink(Link):
    """A frontend's stream to an instance."""

    def __init__(self, world: "World", instance: VirtualInstance, frontend: "VirtualFrontend") -> None:
        hello = pb.Hello(protocol=PROTOCOL, watcher_id=frontend.name, vllm_version=FAKE_VERSION_FOR_FRONTENDS)
        super().__init__("", "", hello, frontend.dispatcher.on_frame, frontend.dispatcher.lose_link)
        self.world, self.instance, self.frontend = world, instance, frontend
        self.up, self.down = Wire(world), Wire(world)
        self.instance_id = instance.name

    def open_now(self) -> None:
        self.watcher = self.instance.run(lambda: self.instance.server.seat(self.hello, sealed=True))
        welcome = self.watcher.frames.popleft().welcome
        self._spawn(self._pump_up())
        self._spawn(self._pump_down())
        self.frontend.dispatcher.add_link(self, welcome)

    async def _pump_up(self) -> None:
        while (frame := await self.outbox.get()) is not None:
            if await self.up.carry():
                self.instance.run(lambda frame=frame: self._arrive(frame))

    def _arrive(self, frame: pb.Up) -> None:
        if self.watcher.number in self.instance.server.watchers:
            self.instance.server._take(self.watcher, frame)

    async def _pump_down(self) -> None:
        while (frame := await self.watcher.next()) is not None:
            if await self.down.carry() and not self.ended:
                if frame.WhichOneof("frame") == "handover":
                    self.world.handover = (self.instance.name, frame.handover.target)
                self.on_frame(self, frame)
        self.break_now(LinkEnd.CLOSED)

    def break_now(self, why: LinkEnd) -> None:
        """Both sides notice."""
        if not self.ended:
            self.ended = True
            for task in self.tasks:
                task.cancel()
            self.instance.run(lambda: self.instance.server._leave(self.watcher))
            if self.frontend.alive:
                self.on_end(self, why)

    async def close(self) -> None:
        self.break_now(LinkEnd.CLOSED)


class VirtualLine:
    """A Transfer stream. Cut in silence, it answers nothing; else both sides notice."""

    def __init__(self, world: "World", source: VirtualInstance, target: VirtualInstance) -> None:
        self.world, self.source, self.target = world, source, target
        self.wire_out, self.wire_back = Wire(world), Wire(world)
        self.wire_out.wait_s = self.wire_back.wait_s = world.line_wait_s
        self.parcels: asyncio.Queue[pb.Parcel | None] = asyncio.Queue()
        self.receipts: asyncio.Queue[pb.Receipt | None] = asyncio.Queue()
        self.sealer, self.lost = Sealer(), False
        self.serving = target.spawn(self._serve()) if target.alive else None
        world.lines.append(self)

    async def _serve(self) -> None:
        async def parcels() -> AsyncIterator[pb.Parcel]:
            while (parcel := await self.parcels.get()) is not None:
                yield parcel

        with contextlib.suppress(asyncio.CancelledError):
            async with contextlib.aclosing(self.target.server.desk.transfer(parcels())) as receipts:
                async for receipt in receipts:
                    self.receipts.put_nowait(receipt)
        self.receipts.put_nowait(None)

    async def exchange(self, parcel: pb.Parcel) -> pb.Receipt:
        if self.lost or not self.target.alive:
            raise LineLost("unreachable")
        sent = pb.Parcel()
        sent.CopyFrom(parcel)
        self.sealer.seal(sent)
        if await self.wire_out.carry():
            self.parcels.put_nowait(sent)
        receipt = await self.receipts.get()
        if receipt is None or self.lost:
            raise LineLost("the stream broke")
        if not await self.wire_back.carry():
            await asyncio.Event().wait()
        return receipt

    def break_now(self) -> None:
        self.lost = True
        self.receipts.put_nowait(None)
        if self.serving is not None:
            self.serving.cancel()

    async def close(self) -> None:
        self.world.loop.call_later(0.002, self.break_now)


class VirtualFrontend(MiniFrontend):
    def __init__(self, world: "World", name: str) -> None:
        self.world, self.name, self.alive = world, name, True
        self.replies, self.sampling = {}, {}
        self.dispatcher = Dispatcher(
            policy=build_policy("least_work"),
            limits=AdmissionConfig(),
            rng=world.rng,
            decode=lambda data: codec.decode(WireOutputs, data),
            emit=self._emit,
            fail=self._fail,
            clock=world.loop.time,
        )

    def connect(self, instance: VirtualInstance) -> None:
        if instance.alive and self.alive and instance.name not in self.dispatcher.links:  # as a watch of members does
            link = VirtualLink(self.world, instance, self)
            self.world.links.append(link)
            link.open_now()

    def die(self) -> None:
        self.alive = False
        self.dispatcher.closed = True
        self.dispatcher.ticker.cancel()
        for link in self.dispatcher.links.values():
            self.world.loop.call_later(0.002, link.break_now, LinkEnd.CRASHED)


@dataclass(frozen=True)
class Fault:
    """What happens when a move passes `point` for the n-th time in a run."""

    victim: str  # source, target, both, controller, frontend, line, owner_source, owner_target, owner_frozen, none
    point: str
    nth: int = 1
    silent: bool = False


class World:
    """Owns everything of one run. `endings`: how the moves ended that the controller heard of."""

    def __init__(self, seed: int, fault: Fault, *, instances: int = 3, blocks: int = 64) -> None:
        self.rng, self.fault = Random(seed), fault
        self.loop = VirtualLoop()
        self.names = [f"i{n}" for n in range(instances)]
        self.engine = EngineConfig(
            kind="fake", block_size=BLOCK_SIZE, max_num_batched_tokens=16, max_num_seqs=6, max_model_len=160
        )
        self.fake = FakeEngineConfig(total_blocks=blocks, block_bytes=256)
        self.links: list[VirtualLink] = []
        self.lines: list[VirtualLine] = []
        self.endings: Counter[str] = Counter()
        self.details: Counter[str] = Counter()
        self.passed: Counter[str] = Counter()
        self.controller_alive, self.struck, self.asked, self.crashes = True, False, 0, 0
        self.handover, self.may_refuse = ("", ""), False
        self.line_wait_s = WIRE_S
        self.patient_share = 0.15  # of runs, in which half of the clients would resume elsewhere
        self.skews: dict[str, tuple[float, float]] = {}

    def clock_of(self, name: str) -> Callable[[], float]:
        """An instance's own: `skews` says how fast it runs, and by how much it was set wrong."""
        rate, offset_s = self.skews.get(name, (1.0, 0.0))
        return lambda: self.loop.now_s * rate + offset_s

    def start(self) -> None:
        self.instances: dict[str, VirtualInstance] = {}
        for name in self.names:
            self.instances[name] = VirtualInstance(self, name, self.fake, self.engine)
            self.instances[name].start()
        self.frontend = VirtualFrontend(self, "f0")
        for instance in self.instances.values():
            self.frontend.connect(instance)

    # -- the controller

    def move(self, request_id: str, target: str) -> None:
        ticket = self.frontend.dispatcher.journal.tickets.get(request_id)
        if ticket is None or ticket.owner is None or ticket.owner == target or not self.controller_alive:
            return
        instance = self.instances[ticket.owner]
        under_way = instance.server.desk.departures.values()
        if any(departure.held.request_id == request_id for departure in under_way) and self.rng.random() < 0.9:
            return
        self.asked += 1
        reason = self.rng.choice(["balance", "disaggregate"])
        move = pb.Move(move_id=f"m{self.asked}", request_id=request_id, frontend="f0", target=target, reason=reason)
        instance.run(lambda: self._ask(instance, move))

    def _ask(self, instance: VirtualInstance, move: pb.Move) -> None:
        server = instance.server
        planner = next((w for w in server.watchers.values() if not w.wants_blocks), None)
        if planner is None:
            planner = server.seat(pb.Hello(protocol=PROTOCOL, watcher_id="controller"), sealed=True)
        server._take(planner, pb.Up(peers=pb.Peers(addresses={n: n for n in self.names if n != instance.name})))
        server._take(planner, pb.Up(move=move))

    def hear(self) -> None:
        """What the instances told the controller."""
        for instance in self.instances.values():
            for watcher in [w for w in instance.server.watchers.values() if not w.wants_blocks]:
                for frame in watcher.frames:
                    if frame.WhichOneof("frame") == "moved":
                        self.endings[frame.moved.outcome] += 1
                        self.details[f"{frame.moved.outcome}: {frame.moved.detail}"] += 1
                watcher.frames.clear()

    # -- faults

    def reached(self, point: str) -> None:
        self.passed[point] += 1
        if self.struck or point != self.fault.point or self.passed[point] != self.fault.nth:
            return
        source, target = self._sides(point)
        if source and target:
            self.struck = True
            self._strike(source, target)
            if HERE.get() and not self.instances[HERE.get()].alive:
                raise asyncio.CancelledError  # this is the dead one's code

    def _sides(self, point: str) -> tuple[str, str]:
        here = HERE.get()
        if point.startswith("handovers."):
            return self.handover
        desk = self.instances[here].server.desk
        if point.startswith("departure."):
            moves = [departure.move for departure in desk.departures.values()]
            return (here, moves[-1].target) if moves else ("", "")
        opened = [arrival.open.source for arrival in desk.arrivals if arrival.open.source]
        return (opened[-1], here) if opened else (self.handover[0], here)

    def _strike(self, source: str, target: str) -> None:
        match self.fault.victim:
            case "source":
                self.kill(source)
            case "target":
                self.kill(target)
            case "both":
                self.kill(source)
                self.kill(target)
            case "controller":
                self._lose_controller()
            case "frontend":
                self.frontend.die()
            case "line":
                for line in [one for one in self.lines if (one.source.name, one.target.name) == (source, target)]:
                    self._cut(line, line.wire_out, line.wire_back)
            case "owner_frozen":
                thawed_s = self.loop.time() + self.rng.uniform(0.5, 1.45)
                for link in [one for one in self.links if one.instance.name in (source, target)]:
                    link.up.free_s = link.down.free_s = thawed_s
            case "owner_source":
                self.cut_owner(source)
            case "owner_target":
                self.cut_owner(target)

    def kill(self, name: str) -> None:
        if self.instances[name].alive:
            self.crashes += 1
            self.instances[name].die()

    def bury(self, name: str) -> None:
        """Its peers' sockets break."""
        for line in self.lines:
            if name in (line.source.name, line.target.name):
                line.break_now()
        for link in self.links:
            if link.instance.name == name:
                link.break_now(LinkEnd.CRASHED)

    def _lose_controller(self) -> None:
        self.controller_alive = False
        for instance in self.instances.values():
            for watcher in [w for w in instance.server.watchers.values() if not w.wants_blocks]:
                self.loop.call_later(0.002, instance.run, lambda i=instance, w=watcher: i.server._leave(w))

    def _cut(self, line: Any, *wires: Wire) -> None:
        for wire in wires:
            wire.cut = self.fault.silent
        if not self.fault.silent:
            self.loop.call_later(0.002, line.break_now)

    def cut_owner(self, name: str, silent: bool | None = None) -> None:
        """The stream between the frontend and that instance; a new one comes up a second later."""
        silent = self.fault.silent if silent is None else silent
        for link in [one for one in self.links if one.instance.name == name and not one.ended]:
            if silent:
                link.up.cut = link.down.cut = True
            self.loop.call_later(1.5 if silent else 0.002, link.break_now, LinkEnd.SILENT)
        self.loop.call_later(2.5, lambda: self.frontend.connect(self.instances[name]))

    # -- a run

    def run(self, scenario: Callable[["World"], Any]) -> Any:
        asyncio.set_event_loop(self.loop)
        with _points(self):
            try:
                return self.loop.run_until_complete(scenario(self))
            finally:
                for task in asyncio.all_tasks(self.loop):
                    task.cancel()
                self.loop.run_until_complete(asyncio.sleep(0.01))
                asyncio.set_event_loop(None)
                self.loop.close()


@contextlib.contextmanager
def _points(world: World) -> Iterator[None]:
    """The fail-points of a move lead to the world."""

    async def ahit(name: str) -> None:
        world.reached(name)

    modules = (departure_module, arrival_module, handovers_module)
    before = [
        (module, key, getattr(module, key)) for module in modules for key in ("hit", "ahit") if hasattr(module, key)
    ]
    try:
        for module, key, _ in before:
            setattr(module, key, world.reached if key == "hit" else ahit)
        yield
    finally:
        for module, key, was in before:
            setattr(module, key, was)


__all__ = ["Fault", "VirtualFrontend", "VirtualInstance", "World"]
