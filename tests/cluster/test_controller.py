"""What the controller promises, over fake processes with real gRPC: slots stay filled, watchers hear, none is left."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import grpc
import pytest

from shoal.cluster import membership as m
from shoal.cluster.controller import Controller
from shoal.cluster.controller_service import ControllerService, serve
from shoal.cluster.desired import Desired
from shoal.cluster.launcher import Identity, ProcessGone, Served
from shoal.cluster.membership import InstanceState as S
from shoal.cluster.registry import MemoryRegistry, Registry, read, write
from shoal.instance.auth import has_token, token_metadata
from shoal.instance.gate import AsyncGate
from shoal.proto.config import ClusterConfig
from shoal.proto.errors import StartFailed, Unavailable
from shoal.proto.v1 import controller_pb2 as cpb
from shoal.proto.v1 import controller_pb2_grpc as crpc
from shoal.proto.v1 import instance_pb2 as pb
from shoal.proto.v1 import instance_pb2_grpc as rpc

TOKEN = "a-token"
# Nobody is taken for silent or stuck because this machine is busy; where that is the question, it comes soon.
RULES = m.Rules(fence_after_s=60, give_up_after_s=60, hang_s=60, first_backoff_s=0.1, kill_again_s=0.5)
FENCES_SOON = replace(RULES, fence_after_s=0.6)
GIVES_UP_SOON = replace(RULES, fence_after_s=0.6, give_up_after_s=1.0)
HANGS_SOON = replace(RULES, hang_s=0.8)
_pids = itertools.count(1001)


class FakeProcess(rpc.InstanceServicer):
    """An instance on this loop: a real server, a fake life. Set its attributes to make it misbehave."""

    def __init__(self, launcher: FakeLauncher, name: str) -> None:
        self.launcher, self.name, self.pid = launcher, name, next(_pids)
        self.alive, self.silent, self.stuck = True, False, False
        self.step, self.niceness, self.warmed, self.kills = 0, 0, 0, 0
        self.who: tuple[str, int] | None = None
        self.served: Served | None = None
        self.server: Any = None
        self.words = ""

    async def warm(self) -> None:
        self.warmed += 1
        if self.launcher.warm_error:
            raise ProcessGone("no vLLM here")

    def renice(self, niceness: int) -> None:
        self.niceness = niceness

    async def progress(self) -> str:
        return "loading the model"

    async def start(self, instance_id: str, incarnation: int, core: int | None) -> Served:
        self.who = (instance_id, incarnation)
        await self.launcher.gate.wait()
        if self.launcher.start_errors:
            raise self.launcher.start_errors.pop(0)
        server = grpc.aio.server()
        rpc.add_InstanceServicer_to_server(self, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self.server = server
        self.served = Served(f"127.0.0.1:{port}", self.pid, "http://127.0.0.1/metrics")
        return self.served

    async def Attach(self, frames: AsyncIterator[pb.Up], context: Any) -> AsyncIterator[pb.Down]:
        assert has_token(context.invocation_metadata(), TOKEN)
        hello = (await anext(aiter(frames))).hello
        assert (hello.watcher_id, hello.vllm_version, hello.protocol) == ("controller", "", 1)
        yield pb.Down(welcome=pb.Welcome(role="mixed", total_blocks=10))
        while True:
            if not self.silent:
                self.step += not self.stuck
                load = pb.Load(running=2, waiting=1, free_blocks=4, total_blocks=10, step_ms=5.0, stepping=True)
                yield pb.Down(report=pb.StepReport(step=self.step, load=load))
            await asyncio.sleep(0.02)

    async def identity(self) -> Identity:
        if not self.alive:
            raise ProcessGone("gone")
        return Identity(*(self.who or ("", 0)), self.served)

    async def stop(self) -> None:
        await self.crash()

    async def gone(self) -> bool:
        return not self.alive

    async def crash(self) -> None:
        self.alive = False
        if self.server is not None:
            server, self.server = self.server, None
            await server.stop(None)

    async def kill(self) -> None:
        self.kills += 1
        await self.crash()

    def last_words(self) -> str:
        return self.words


class FakeLauncher:
    def __init__(self) -> None:
        self.processes: list[FakeProcess] = []
        self.start_errors: list[Exception] = []
        self.warm_error = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def launch(self, name: str) -> FakeProcess:
        self.processes.append(FakeProcess(self, name))
        return self.processes[-1]

    async def survivors(self) -> list[FakeProcess]:
        return [p for p in self.processes if p.alive]

    @property
    def living(self) -> list[FakeProcess]:
        return [p for p in self.processes if p.alive]

    def of(self, slot_id: str) -> FakeProcess:
        return next(p for p in reversed(self.processes) if p.who and p.who[0] == slot_id)


async def until(true: Callable[[], bool], patience_s: float = 20.0) -> None:
    async with asyncio.timeout(patience_s):
        while not true():
            await asyncio.sleep(0.01)


Make = Callable[..., Awaitable[Controller]]


@pytest.fixture
async def launcher() -> AsyncIterator[FakeLauncher]:
    one = FakeLauncher()
    yield one
    for process in one.processes:
        await process.crash()


@pytest.fixture
async def make(launcher: FakeLauncher) -> AsyncIterator[Make]:
    made: list[Controller] = []

    async def one(*, registry: Registry | None = None, run_id: str = "run", **config: Any) -> Controller:
        tree = {"instances": 2, "spares": 0, "engine": {"kind": "fake"}, **config}
        controller = Controller(
            ClusterConfig.model_validate(tree),
            token=TOKEN,
            run_id=run_id,
            launcher=launcher,
            registry=registry or MemoryRegistry(),
            rules=RULES,
        )
        made.append(controller)
        await controller.run()
        return controller

    yield one
    for controller in made:
        await controller.close()
    assert launcher.living == [], "left processes behind"


def states(controller: Controller) -> list[S]:
    return [slot.state for slot in controller.slots.values()]


def all_ready(controller: Controller) -> bool:
    return set(states(controller)) == {S.READY}


async def test_every_wanted_slot_becomes_ready_and_says_where_it_is(make: Make, launcher: FakeLauncher):
    controller = await make()
    await until(lambda: all_ready(controller))
    assert [p.name for p in launcher.processes] == ["instance-0-1", "instance-1-1"]
    assert controller.slots["i0"].address == launcher.of("i0").served.address


async def test_a_dead_instance_is_buried_and_replaced(make: Make, launcher: FakeLauncher):
    controller = await make()
    await until(lambda: all_ready(controller))
    first = launcher.of("i0")
    first.words = "engine died: bad token"
    await first.crash()
    await until(lambda: controller.slots["i0"].incarnation == 2 and all_ready(controller))
    assert first.kills >= 1, "its group must be reaped"
    assert controller.slots["i0"].deaths == 1 and controller.slots["i1"].incarnation == 1


async def test_a_spare_replaces_a_dead_instance_and_is_replaced_itself(make: Make, launcher: FakeLauncher):
    controller = await make(spares=1)
    await until(lambda: all_ready(controller) and controller.lives.spares.count == 1)
    spare = launcher.processes[-1]
    await until(lambda: spare.warmed == 1)
    assert (spare.name, spare.niceness) == ("spare-1", 19)
    await launcher.of("i1").crash()
    await until(lambda: spare.who == ("i1", 2) and all_ready(controller))
    assert spare.niceness == 0
    await until(lambda: controller.lives.spares.count == 1)


async def test_a_spare_that_cannot_warm_up_harms_nobody(make: Make, launcher: FakeLauncher):
    launcher.warm_error = True
    controller = await make(spares=1)
    await until(lambda: any(p.warmed for p in launcher.processes) and controller.lives.spares.count == 0)
    await until(lambda: all_ready(controller) and len(launcher.living) == 2)


async def test_a_silent_instance_is_fenced_and_rejoins_as_the_same_incarnation(make: Make, launcher: FakeLauncher):
    controller = await make()
    await until(lambda: all_ready(controller))
    controller.rules = FENCES_SOON
    launcher.of("i0").silent = True
    await until(lambda: controller.slots["i0"].state is S.FENCED)
    launcher.of("i0").silent = False
    await until(lambda: all_ready(controller))
    assert controller.slots["i0"].incarnation == 1


async def test_an_instance_that_stays_silent_is_killed_and_replaced(make: Make, launcher: FakeLauncher):
    controller = await make()
    await until(lambda: all_ready(controller))
    first = launcher.of("i0")
    first.silent, controller.rules = True, GIVES_UP_SOON
    await until(lambda: not first.alive)
    controller.rules = RULES
    await until(lambda: controller.slots["i0"].incarnation >= 2 and all_ready(controller))
    assert first.kills >= 1


async def test_an_instance_that_beats_but_does_not_step_is_killed_and_replaced(make: Make, launcher: FakeLauncher):
    controller = await make()
    await until(lambda: all_ready(controller))
    first = launcher.of("i1")
    first.stuck, controller.rules = True, HANGS_SOON
    await until(lambda: not first.alive)
    controller.rules = RULES
    await until(lambda: controller.slots["i1"].incarnation >= 2 and all_ready(controller))


async def test_a_start_that_fails_thrice_is_quarantined_with_its_reason_until_revived(
    make: Make, launcher: FakeLauncher
):
    launcher.start_errors = [StartFailed("model: no such folder") for _ in range(3)]
    controller = await make(instances=1)
    await until(lambda: states(controller) == [S.QUARANTINED])
    assert "model: no such folder" in controller.slots["i0"].note and launcher.living == []
    assert controller.revive("i7") == [] and controller.revive() == ["i0"]
    await until(lambda: all_ready(controller))


async def test_a_start_that_never_ends_is_given_up_and_leaves_no_process(make: Make, launcher: FakeLauncher):
    launcher.gate.clear()
    controller = await make(instances=1)
    controller.rules = replace(RULES, start_timeout_s=0.3)
    await until(lambda: controller.slots["i0"].incarnation == 2)
    assert not launcher.processes[0].alive
    controller.rules = RULES
    launcher.gate.set()
    await until(lambda: all_ready(controller))
    assert len(launcher.living) == 1


async def test_a_new_controller_finds_the_living_and_ends_the_rest(make: Make, launcher: FakeLauncher):
    first = await make()
    await until(lambda: all_ready(first))
    stray = await launcher.launch("spare-1")
    await first.lives.abandon()  # the controller's process dies: nobody says good-bye
    await launcher.of("i1").crash()
    second = await make()
    await until(lambda: all_ready(second))
    assert (second.slots["i0"].incarnation, launcher.of("i0").kills) == (1, 0)
    await until(lambda: not stray.alive and len(launcher.living) == 2)
    await launcher.of("i0").crash()
    await until(lambda: second.slots["i0"].incarnation == 2 and all_ready(second))


class AwayRegistry(MemoryRegistry):
    async def get(self, key: str) -> bytes | None:
        raise Unavailable("registry: away")

    async def put(self, key: str, value: bytes) -> None:
        raise Unavailable("registry: away")


async def test_serving_goes_on_while_the_registry_is_away(make: Make, launcher: FakeLauncher):
    controller = await make(registry=AwayRegistry())
    await until(lambda: all_ready(controller))
    await launcher.of("i0").crash()
    await until(lambda: controller.slots["i0"].incarnation == 2 and all_ready(controller))


async def test_what_is_wanted_outlives_the_controller_but_not_the_run(make: Make):
    registry = MemoryRegistry()
    await write(registry, "desired", Desired("run", ("i0", "i1", "i2"), {"i0": 7}))
    controller = await make(registry=registry)
    assert len(controller.slots) == 3
    await until(lambda: all_ready(controller))
    assert controller.slots["i0"].incarnation == 8
    kept = await read(registry, "desired", Desired)
    assert kept == Desired("run", ("i0", "i1", "i2"), {"i0": 8, "i1": 1, "i2": 1})
    await controller.close()
    await write(registry, "desired", Desired("an earlier run", ("i0", "i1", "i5"), {"i1": 4}))
    controller = await make(registry=registry, instances=2)
    assert list(controller.slots) == ["i0", "i1"]


async def test_garbage_in_the_registry_is_ignored(make: Make):
    registry = MemoryRegistry()
    await registry.put("desired", b"\xc1garbage")
    controller = await make(registry=registry)
    await until(lambda: all_ready(controller))


@pytest.fixture
async def stub_of() -> AsyncIterator[Callable[[Controller], Awaitable[crpc.ControllerStub]]]:
    closing: list[Any] = []

    async def one(controller: Controller) -> crpc.ControllerStub:
        server, address = await serve(ControllerService(controller), "127.0.0.1:0", AsyncGate(TOKEN))
        channel = grpc.aio.insecure_channel(address)
        closing.extend([channel.close, lambda: server.stop(None)])
        return crpc.ControllerStub(channel)

    yield one
    for close in closing:
        await close()


async def test_a_watcher_sees_the_whole_membership_and_then_each_change(
    make: Make, launcher: FakeLauncher, stub_of: Any
):
    controller = await make()
    stub = await stub_of(controller)
    stream = stub.Watch(cpb.WatchRequest(watcher_id="f0"), metadata=token_metadata(TOKEN), timeout=30)
    seen: list[cpb.Membership] = []
    crashed = False
    async for membership in stream:
        seen.append(membership)
        members = {i.id: i for i in membership.instances}
        if not crashed and {i.state for i in membership.instances} == {"ready"}:
            crashed = True
            await launcher.of("i0").crash()
        if members["i0"].incarnation == 2 and members["i0"].state == "ready":
            break
    assert [one.version for one in seen] == sorted({one.version for one in seen})
    assert members["i0"].address == launcher.of("i0").served.address


async def test_status_tells_what_each_instance_last_said_and_which_frontends_watch(make: Make, stub_of: Any):
    controller = await make(instances=1)
    stub = await stub_of(controller)
    info = cpb.FrontendInfo(id="f0", http="http://127.0.0.1:8000", state="ready", pid=9)
    request = cpb.WatchRequest(watcher_id="f0", frontend=info)
    stream = stub.Watch(request, metadata=token_metadata(TOKEN), timeout=30)
    await stream.read()
    await until(lambda: all_ready(controller) and controller.live["i0"].load.running == 2)
    status = await stub.Status(cpb.StatusRequest(), metadata=token_metadata(TOKEN), timeout=10)
    one = status.instances[0]
    assert (one.id, one.state, one.role, one.running, one.waiting) == ("i0", "ready", "mixed", 2, 1)
    assert (one.free_blocks, one.total_blocks, one.step_ms) == (4, 10, 5.0)
    assert one.pid == controller.slots["i0"].pid and one.metrics
    assert list(status.frontends) == [info]
    stream.cancel()
    async with asyncio.timeout(20):
        while (await stub.Status(cpb.StatusRequest(), metadata=token_metadata(TOKEN))).frontends:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("metadata", [(), token_metadata("wrong")])
async def test_nobody_without_the_token_gets_an_answer(make: Make, stub_of: Any, metadata: Any):
    stub = await stub_of(await make(instances=1))
    for call in (
        stub.Status(cpb.StatusRequest(), metadata=metadata, timeout=10),
        stub.Revive(cpb.ReviveRequest(), metadata=metadata, timeout=10),
        stub.Watch(cpb.WatchRequest(), metadata=metadata, timeout=10).read(),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_people_scale_and_restart_and_whoever_is_not_wanted_leaves(
    make: Make, launcher: FakeLauncher, stub_of: Any
):
    controller = await make(instances=1)
    controller.rules = replace(RULES, drain_limit_s=0.3)  # these fakes are never empty
    stub, metadata = await stub_of(controller), token_metadata(TOKEN)
    await stub.Scale(cpb.ScaleRequest(instances=2), metadata=metadata, timeout=10)
    await until(lambda: all_ready(controller) and list(controller.slots) == ["i0", "i1"])
    await stub.Drain(cpb.DrainRequest(id="i0"), metadata=metadata, timeout=10)
    assert controller.slots["i0"].state is S.DRAINING and launcher.of("i0").alive
    await until(lambda: list(controller.slots) == ["i1"])
    assert not launcher.of("i0").alive
    await stub.Restart(cpb.RestartRequest(), metadata=metadata, timeout=10)
    await until(lambda: list(controller.slots) == ["i0"] and all_ready(controller) and not controller.fleet.words)
    assert controller.slots["i0"].incarnation == 2, "no incarnation repeats under a name"


async def test_an_act_that_cannot_be_is_refused_in_words(make: Make, stub_of: Any):
    stub, metadata = await stub_of(await make(instances=1)), token_metadata(TOKEN)
    for call, code in (
        (stub.Drain(cpb.DrainRequest(id="i9"), metadata=metadata, timeout=10), "NOT_FOUND"),
        (stub.Drain(cpb.DrainRequest(id="i0"), metadata=metadata, timeout=10), "INVALID_ARGUMENT"),
        (stub.Migrate(cpb.MigrateRequest(request_id="x", target="i0"), metadata=metadata, timeout=10), "NOT_FOUND"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code().name == code
