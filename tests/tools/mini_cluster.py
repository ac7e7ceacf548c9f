"""A cluster in one process and one event loop: real instance servers over fake engines, real links, a fixed membership.

Each instance listens behind a fault proxy, so that it can be killed (connections reset, server gone), frozen (nothing
goes in or out, nothing is lost) and cut off or corrupted on the way. A MiniFrontend is dispatcher and membership watch
with what vLLM would be replaced by lists. No vLLM, no Ray.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from types import TracebackType
from typing import Any, NoReturn

import grpc

from shoal.bench.fault_proxy import FaultProxy
from shoal.bench.static_controller import StaticController
from shoal.cluster.dispatcher import Dispatcher
from shoal.cluster.journal import Outcome, Ticket, fingerprint
from shoal.cluster.membership_watch import MembershipWatch
from shoal.cluster.request_context import RequestContext, called_by
from shoal.instance.block_keys import block_hashes
from shoal.instance.engine_factory import FAKE_VERSION_FOR_FRONTENDS
from shoal.instance.fake_engine import FakeEngine
from shoal.instance.fake_tokens import reply
from shoal.instance.gate import AsyncGate
from shoal.instance.seam import EngineLoad
from shoal.instance.server import InstanceServer
from shoal.instance.stepper import EngineDied
from shoal.instance.watcher import Watcher
from shoal.proto import codec
from shoal.proto.codec import WireOutputs, WireRequest
from shoal.proto.config import AdmissionConfig, EngineConfig, FakeEngineConfig
from shoal.proto.errors import ShoalError
from shoal.proto.v1 import controller_pb2 as cpb
from shoal.proto.v1 import instance_pb2 as pb
from shoal.proto.v1 import instance_pb2_grpc as rpc
from shoal.router.contract import RouteRequest
from shoal.router.profile import build_policy

TOKEN = "token"
VOCABULARY = 256
BLOCK_SIZE = 4
BRAKE = 20.0
ENGINE = EngineConfig(
    kind="fake", block_size=BLOCK_SIZE, max_num_batched_tokens=64, max_num_seqs=16, max_model_len=1024
)
FAKE = FakeEngineConfig(
    a_ms=3.0, b_ms=0.0, c_ms=0.0, d_ms=0.0, e_ms=0.0, total_blocks=1024, vocabulary=VOCABULARY, poison_token=666
)


class GatedServer(InstanceServer):
    """Its doors can be shut: frames wait on either side of them, and none is lost."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.doors = asyncio.Event()
        self.doors.set()

    async def _read(self, watcher: Watcher, frames: Any, seals: Any) -> None:
        async def gated() -> Any:
            async for frame in frames:
                await self.doors.wait()
                yield frame

        await super()._read(watcher, gated(), seals)

    async def Attach(self, request_iterator: Any, context: Any) -> Any:
        async with contextlib.aclosing(super().Attach(request_iterator, context)) as frames:
            async for frame in frames:
                await self.doors.wait()
                yield frame


class MiniInstance:
    """One life of one instance. Owns its engine, server and proxy."""

    def __init__(
        self, name: str, incarnation: int, *, engine: EngineConfig, fake: FakeEngineConfig, seed: int, pid: int = 1
    ) -> None:
        self.name, self.incarnation, self.pid = name, incarnation, pid
        self.role = "mixed"  # as the controller wants it
        self.loop = asyncio.get_running_loop()
        self.may_step = threading.Event()
        self.may_step.set()
        self.steps = 0
        self.braked_after: int | None = None
        self.engine = FakeEngine(
            engine, fake, model="tiny", vllm_version=FAKE_VERSION_FOR_FRONTENDS, sleep_s=self._sleep, die=self._poisoned
        )
        self.server = GatedServer(
            self.engine, instance_id=name, role="mixed", token=TOKEN, pid=pid, on_death=self._engine_died
        )
        self.seed = seed
        self.alive = True
        self.ending: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.grpc_server = grpc.aio.server(interceptors=[AsyncGate(TOKEN)])
        rpc.add_InstanceServicer_to_server(self.server, self.grpc_server)
        port = self.grpc_server.add_insecure_port("127.0.0.1:0")
        await self.grpc_server.start()
        self.server.start()
        self.proxy = await FaultProxy("127.0.0.1", port, seed=self.seed).__aenter__()
        self.address = f"127.0.0.1:{self.proxy.port}"

    def _sleep(self, seconds: float) -> None:
        self.steps += 1
        braked = self.braked_after is not None and self.steps > self.braked_after
        threading.Event().wait(seconds * BRAKE if braked else seconds)
        self.may_step.wait(60)

    def _poisoned(self) -> NoReturn:
        raise SystemExit("poison")  # ends the step thread, as it would end the process

    def _engine_died(self, reason: str) -> None:
        if self.alive and reason != "stopped":
            self.ending = self.loop.create_task(self.kill())

    async def kill(self) -> None:
        """As SIGKILL looks from outside: connections are reset, the port is closed."""
        if self.alive:
            self.alive = False
            await self.proxy.__aexit__(None, None, None)
            self.may_step.set()
            self.server.doors.set()
            await self.server.stop()
            await self.grpc_server.stop(None)
            await asyncio.to_thread(self.server.stepper.thread.join, 10)

    def freeze(self) -> None:
        self.may_step.clear()
        self.server.doors.clear()

    def thaw(self) -> None:
        self.may_step.set()
        self.server.doors.set()

    async def load(self) -> EngineLoad:
        return await asyncio.wrap_future(self.server.stepper.ask(self.engine.load))

    async def check(self) -> list[str]:
        """P2, in the words of the oracle."""
        if not self.alive:
            return []
        try:
            load = await self.load()
            await asyncio.wrap_future(self.server.stepper.ask(self.engine.check))
        except EngineDied:
            return []
        self.server.holdings.check()
        idle = (load.free_blocks, load.running, load.waiting) == (load.total_blocks, 0, 0)
        return [] if idle else [f"P2 {self.name}: {load}"]

    def member(self) -> cpb.Member:
        return cpb.Member(
            id=self.name,
            address=self.address,
            state="ready",
            role=self.role,
            pid=self.pid,
            incarnation=self.incarnation,
        )


class MiniCluster:
    """`async with MiniCluster(2) as cluster`. Owns controller, instances and the frontends made by `frontend`."""

    def __init__(
        self, count: int, *, engine: EngineConfig = ENGINE, fake: FakeEngineConfig = FAKE, seed: int = 0
    ) -> None:
        self.engine, self.fake, self.seed = engine, fake, seed
        self.names = [f"i{n}" for n in range(count)]
        self.instances: dict[str, MiniInstance] = {}
        self.lives: list[MiniInstance] = []
        self.frontends: list[MiniFrontend] = []

    async def __aenter__(self) -> "MiniCluster":
        self.controller = StaticController()
        self.controller_address = await self.controller.start()
        for name in self.names:
            await self._start(name, 1)
        await self.publish()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for frontend in self.frontends:
            await frontend.stop()
        for life in self.lives:
            await (life.ending or life.kill())
        await self.controller.stop()

    async def _start(self, name: str, incarnation: int) -> None:
        life = MiniInstance(
            name, incarnation, engine=self.engine, fake=self.fake, seed=self.seed + len(self.lives), pid=len(self.lives)
        )
        self.lives.append(life)
        await life.start()
        self.instances[name] = life

    async def publish(self, members: Iterable[cpb.Member] | None = None) -> None:
        await self.controller.set_members(list(members or (i.member() for i in self.instances.values())))

    async def revive(self, name: str) -> None:
        """A new life of a dead one, told to everybody."""
        await self._start(name, self.instances[name].incarnation + 1)
        await self.publish()

    async def frontend(self, name: str = "f0", **settings: Any) -> "MiniFrontend":
        frontend = MiniFrontend(self, name, **settings)
        self.frontends.append(frontend)
        await eventually(lambda: len(frontend.dispatcher.links) == sum(i.alive for i in self.instances.values()))
        return frontend

    def brake(self, after_steps: int | None, *names: str) -> None:
        """From then on these (or all) take their time for each step, so that no request ends before something else that
        a test waits for, however busy this machine is. None: as fast as before.
        """
        for name in names or self.names:
            self.instances[name].braked_after = after_steps

    async def check(self) -> list[str]:
        return [line for life in self.lives for line in await life.check()]


@dataclass
class Reply:
    """What one client saw. `error` is how it failed; `finish_reason` how it ended otherwise."""

    prompt: list[int]
    context: RequestContext
    tokens: list[int] = field(default_factory=list)
    finish_reason: int | None = None
    failed: bool = False
    error: ShoalError | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def expected(self) -> list[int]:
        return reply(self.prompt, len(self.tokens), VOCABULARY)

    async def wait_tokens(self, count: int) -> None:
        await eventually(lambda: len(self.tokens) >= count or self.done.is_set())


class MiniFrontend:
    """Dispatcher, watch, and the clients' side of its streams. `frames` are all that came, for replaying them late."""

    def __init__(
        self,
        cluster: MiniCluster,
        name: str,
        *,
        policy: str = "least_work",
        limits: AdmissionConfig | None = None,
        seed: int = 0,
        vllm_version: str = FAKE_VERSION_FOR_FRONTENDS,
        hash_seed: str = "fake",
        sampling: dict[str, Any] | None = None,
    ) -> None:
        self.cluster = cluster
        self.replies: dict[str, Reply] = {}
        self.sampling = sampling or {}
        self.dispatcher = Dispatcher(
            policy=build_policy(policy),
            limits=limits or AdmissionConfig(),
            rng=Random(seed),
            decode=lambda data: codec.decode(WireOutputs, data),
            emit=self._emit,
            fail=self._fail,
        )
        self.frames: list[tuple[Any, pb.Down]] = []
        self._tap()
        self.watch = MembershipWatch(
            controller=lambda: cluster.controller_address,
            token=TOKEN,
            frontend=cpb.FrontendInfo(id=name),
            vllm_version=vllm_version,
            hash_seed=hash_seed,
            dispatcher=self.dispatcher,
        )
        self.watch.start()

    def _tap(self) -> None:
        take = self.dispatcher.on_frame

        def tapped(link: Any, frame: pb.Down) -> None:
            self.frames.append((link, frame))
            take(link, frame)

        self.dispatcher.on_frame = tapped  # type: ignore[method-assign]

    def _emit(self, batch: WireOutputs) -> None:
        for output in batch.outputs:
            seen = self.replies[output.request_id]
            assert not seen.done.is_set(), f"{output.request_id}: output after its end"
            seen.tokens += output.new_token_ids
            seen.finish_reason = output.finish_reason
            if output.finish_reason is not None:
                seen.done.set()

    def _fail(self, request_id: str) -> None:
        seen = self.replies[request_id]
        assert not seen.done.is_set(), f"{request_id}: failed after its end"
        seen.failed, seen.error = True, seen.context.error
        seen.done.set()

    def ticket(self, request_id: str, prompt: list[int], max_tokens: int, **route: Any) -> Ticket:
        sampling = {**self.sampling, "max_tokens": max_tokens}
        payload = codec.encode(WireRequest(request_id, prompt, None, sampling, None, 0.0, None, None))
        now_s = self.dispatcher.clock()
        deadline_s = now_s + route.pop("deadline_s", 60.0)
        resume_key = route.pop("resume_key", "")
        return Ticket(
            RouteRequest(
                request_id=request_id,
                context_tokens=len(prompt),
                max_new_tokens=max_tokens,
                block_hashes=tuple(block_hashes(prompt, BLOCK_SIZE)),
                arrived_s=now_s,
                deadline_s=deadline_s,
                **route,
            ),
            payload,
            fingerprint(prompt, repr(sampling).encode(), None),
            resume_key=resume_key,
        )

    async def submit(self, request_id: str, prompt: list[int], max_tokens: int = 16, **route: Any) -> Reply:
        """Raises what the client would hear before its first token."""
        ticket = self.ticket(request_id, prompt, max_tokens, **route)
        context = RequestContext(request_id, ticket.route.tenant, traceparent=called_by.get())
        seen = self.replies[request_id] = Reply(prompt, context)
        try:
            await self.dispatcher.submit(ticket, context)
        except ShoalError as exc:
            seen.error = exc
            seen.done.set()
            raise
        return seen

    def ask(self, instance: str, **frames: Any) -> None:
        """Of an instance, by name of the Up frame, as this frontend's link would."""
        self.dispatcher.links[instance].send(pb.Up(**frames))

    def claim(self, link: Any, adopted: pb.Adopted, request_id: str, prompt: list[int]) -> Reply:
        """Go on with what a lost frontend had; `adopted` is what an inquiry found."""
        ticket = self.ticket(request_id, prompt, 1, resume_key=adopted.resume_key, tenant="t")
        ticket.payload = adopted.request
        context = RequestContext(request_id=request_id, tenant="t")
        seen = self.replies[request_id] = Reply(prompt, context)
        self.dispatcher.claim(ticket, link.instance_id, adopted.epoch + 1, context)
        return seen

    async def run(self, request_id: str, prompt: list[int], max_tokens: int = 16, **route: Any) -> Reply:
        """To its end, whichever."""
        with contextlib.suppress(ShoalError):
            await self.submit(request_id, prompt, max_tokens, **route)
        async with asyncio.timeout(60):
            await self.replies[request_id].done.wait()
        return self.replies[request_id]

    def check(self) -> None:
        self.dispatcher.ledgers.check()

    def check_empty(self) -> None:
        """Nothing is kept of requests that ended; each had one outcome."""
        self.check()
        dispatcher = self.dispatcher
        assert not dispatcher.flights and not len(dispatcher.admission) and dispatcher.admission.tokens == 0
        assert len(dispatcher.view._bookings) == 0
        assert sum(dispatcher.journal.outcomes.values()) == len(self.replies)

    def outcomes(self) -> dict[Outcome, int]:
        return {outcome: count for outcome, count in self.dispatcher.journal.outcomes.items() if count}

    async def stop(self) -> None:
        await self.watch.close()
        await self.dispatcher.close()


async def eventually(true: Callable[[], bool], within_s: float = 30.0) -> None:
    """Waits for a fact; the bound only ends a test that would never pass."""
    async with asyncio.timeout(within_s):
        while not true():
            await asyncio.sleep(0.005)


async def settled(check: Callable[[], Any], within_s: float = 10.0) -> list[str]:
    """What `check` still complains about after the bound; none as soon as there is none."""
    end_s = asyncio.get_running_loop().time() + within_s
    while (found := await check()) and asyncio.get_running_loop().time() < end_s:
        await asyncio.sleep(0.02)
    return list(found)


__all__ = ["BLOCK_SIZE", "FAKE", "TOKEN", "VOCABULARY", "MiniCluster", "MiniFrontend", "MiniInstance", "Reply"]
__all__ += ["ENGINE", "eventually", "settled"]
