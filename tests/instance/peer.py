"""One side of an Attach stream for tests: sends what it is told, keeps all it hears, and waits for what it should hear.

`Instance` is the other side: a real gRPC server on the loopback over a fake engine whose steps a test can hold up.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn

import grpc

from shoal.instance.actor import SERVER_OPTIONS
from shoal.instance.auth import token_metadata
from shoal.instance.fake_engine import FakeEngine
from shoal.instance.gate import AsyncGate
from shoal.instance.server import PROTOCOL, InstanceServer
from shoal.proto import codec
from shoal.proto.codec import WireOutputs, WireRequest
from shoal.proto.config import EngineConfig, FakeEngineConfig
from shoal.proto.v1 import instance_pb2 as pb
from shoal.proto.v1 import instance_pb2_grpc as rpc

VERSION = "0.32.0"
TOKEN = "cluster token"
WAIT_S = 20.0
STEP_S = 0.0003  # without any pause the step thread outruns the event loop that both sides of the stream share
VOCABULARY = 256


class Died(Exception):
    """Instead of the end of the process."""


def die() -> NoReturn:
    raise Died("poisoned")


class Pace:
    """How fast the engine steps: `hold` stops it inside its next step, `let` lets that many steps pass, `run` all."""

    def __init__(self) -> None:
        self.free = True
        self.step_s = STEP_S
        self.steps = threading.Semaphore(0)

    def __call__(self, _seconds: float) -> None:
        time.sleep(self.step_s)
        while not self.free and not self.steps.acquire(timeout=0.05):
            pass

    def hold(self) -> None:
        self.free = False

    def let(self, steps: int) -> None:
        self.steps.release(steps)

    def run(self) -> None:
        self.free = True


def fake_engine(pace: Callable[[float], None], **sizes: Any) -> FakeEngine:
    engine = {"kind": "fake", "block_size": 4, "max_num_batched_tokens": 64, "max_num_seqs": 64, "max_model_len": 8192}
    fake = {"total_blocks": 8192, "vocabulary": VOCABULARY, "poison_token": 666}
    return FakeEngine(
        EngineConfig(**{**engine, **{k: v for k, v in sizes.items() if k in engine}}),
        FakeEngineConfig(**{**fake, **{k: v for k, v in sizes.items() if k in fake}}),
        model="m",
        vllm_version=VERSION,
        sleep_s=pace,
        die=die,
    )


class Instance:
    """`async with Instance() as instance`. Afterwards nothing of it runs, and its ledgers were checked."""

    def __init__(self, engine: Any = None, **sizes: Any) -> None:
        self.pace = Pace()
        self.engine = fake_engine(self.pace, **sizes) if engine is None else engine
        self.deaths: list[str] = []

    async def __aenter__(self) -> Instance:
        self.server = InstanceServer(
            self.engine, instance_id="i0", role="mixed", token=TOKEN, pid=77, on_death=self.deaths.append
        )
        self.grpc_server = grpc.aio.server(options=SERVER_OPTIONS, interceptors=[AsyncGate(TOKEN)])
        rpc.add_InstanceServicer_to_server(self.server, self.grpc_server)
        self.port = self.grpc_server.add_insecure_port("127.0.0.1:0")
        self.address = f"127.0.0.1:{self.port}"
        await self.grpc_server.start()
        self.server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.holdings.check()
        assert set(self.server.blocks.pending) <= set(self.server.watchers)
        self.pace.run()
        await self.server.stop()
        await self.grpc_server.stop(0)
        await asyncio.to_thread(self.server.stepper.thread.join, WAIT_S)
        assert not self.server.stepper.thread.is_alive()

    async def until(self, true: Callable[[], bool]) -> None:
        """Of the server's own state."""
        async with asyncio.timeout(WAIT_S):
            while not true():
                await asyncio.sleep(0.002)

    def all_free(self) -> bool:
        load = self.server.load
        return (load.running, load.waiting, load.free_blocks) == (0, 0, load.total_blocks)


def submit(
    request_id: str = "r",
    prompt: list[int] | None = None,
    *,
    epoch: int = 1,
    delivered: tuple[int, ...] = (),
    key: str = "",
    tenant: str = "t",
    **sampling: Any,
) -> pb.Up:
    wire = WireRequest(request_id, prompt or [1, 2, 3], None, sampling, None, 0.0, None, None)
    return pb.Up(
        submit=pb.Submit(
            request_id=request_id,
            epoch=epoch,
            request=codec.encode(wire),
            delivered=delivered,
            tenant=tenant,
            resume_key=key,
            resume_context=b"context of " + request_id.encode(),
        )
    )


class Peer:
    """`async with Peer(address, "f1") as peer`. It reads all the time unless `reads` is False."""

    def __init__(
        self,
        address: str,
        watcher_id: str = "f1",
        *,
        token: str | None = TOKEN,
        version: str = VERSION,
        protocol: int = PROTOCOL,
        first: pb.Up | None = None,
        reads: bool = True,
        speaks: bool = True,
    ) -> None:
        self.address, self.token, self.reads = address, token, reads
        hello = pb.Up(hello=pb.Hello(protocol=protocol, watcher_id=watcher_id, vllm_version=version))
        self.outbox: asyncio.Queue[pb.Up | None] = asyncio.Queue()
        if speaks:
            self.outbox.put_nowait(hello if first is None else first)
        self.frames: list[pb.Down] = []
        self.sorted_frames = 0
        self.sorted_outputs: dict[str, list[tuple[int, int, list[int], int | None]]] = defaultdict(list)
        self.heard = asyncio.Event()
        self.end: grpc.aio.AioRpcError | None = None
        self.closed = False

    async def __aenter__(self) -> Peer:
        # Without the probe of the link's capacity, what is buffered for one who does not read stays at 64 KiB.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", int(self.reads))]
        self.channel = grpc.aio.insecure_channel(self.address, options=options)
        metadata = token_metadata(self.token) if self.token is not None else ()
        self.call = rpc.InstanceStub(self.channel).Attach(self._up(), metadata=metadata)
        self.reader = asyncio.create_task(self._read()) if self.reads else None
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.hang_up()

    async def hang_up(self) -> None:
        self.call.cancel()
        if self.reader is not None:
            self.reader.cancel()
        await self.channel.close()

    async def _up(self) -> AsyncIterator[pb.Up]:
        while (frame := await self.outbox.get()) is not None:
            yield frame

    async def _read(self) -> None:
        try:
            while (frame := await self.call.read()) is not grpc.aio.EOF:
                self.frames.append(frame)
                self.heard.set()
        except grpc.aio.AioRpcError as exc:
            self.end = exc
        self.closed = True
        self.heard.set()

    async def read_to_the_end(self) -> None:
        """For a peer that did not read until now."""
        async with asyncio.timeout(WAIT_S):
            await self._read()

    def send(self, *frames: pb.Up) -> None:
        for frame in frames:
            self.outbox.put_nowait(frame)

    async def until(self, true: Callable[[], bool]) -> None:
        """Of what was heard."""
        async with asyncio.timeout(WAIT_S):
            while not true():
                assert not self.closed, f"the stream ended: {self.end}"
                self.heard.clear()
                await self.heard.wait()

    async def ended(self) -> tuple[grpc.StatusCode, str]:
        async with asyncio.timeout(WAIT_S):
            while not self.closed:
                self.heard.clear()
                await self.heard.wait()
        assert self.end is not None, "it ended without an error"
        return self.end.code(), self.end.details() or ""

    async def turn(self) -> None:
        """Until the instance has taken up everything sent before."""
        asked = f"turn {len(self.frames)}"
        self.send(pb.Up(adopt=pb.Adopt(resume_key=asked)))
        await self.until(lambda: any(one.resume_key == asked for one in self.of("adopted")))

    # -- what was heard

    def of(self, kind: str) -> list[Any]:
        return [getattr(frame, kind) for frame in self.frames if frame.WhichOneof("frame") == kind]

    @property
    def welcome(self) -> pb.Welcome:
        return self.of("welcome")[0]

    def reports(self) -> list[pb.StepReport]:
        return self.of("report")

    def outputs(self) -> dict[str, list[tuple[int, int, list[int], int | None]]]:
        """request id -> (epoch, index, tokens, finish reason) of each output, in order."""
        for frame in self.frames[self.sorted_frames :]:
            report = frame.report
            if report.outputs:
                outputs = codec.decode(WireOutputs, report.outputs).outputs
                for output, epoch, index in zip(outputs, report.epochs, report.indexes, strict=True):
                    one = (epoch, index, output.new_token_ids, output.finish_reason)
                    self.sorted_outputs[output.request_id].append(one)
        self.sorted_frames = len(self.frames)
        return self.sorted_outputs

    def tokens(self, request_id: str = "r", *, epoch: int = 1, start: int = 0) -> list[int]:
        """All its tokens, having checked that epoch and indexes leave no doubt about any."""
        tokens: list[int] = []
        for heard_epoch, index, new, _ in self.outputs()[request_id]:
            assert (heard_epoch, index) == (epoch, start + len(tokens))
            tokens += new
        return tokens

    def finished(self, request_id: str = "r") -> bool:
        heard = self.outputs()[request_id]
        return bool(heard) and heard[-1][3] is not None

    def believed_blocks(self) -> set[bytes]:
        believed: set[bytes] = set()
        for report in self.reports():
            for change in report.blocks:
                if change.kind == pb.BlockChange.STORED:
                    believed |= set(change.hashes)
                elif change.kind == pb.BlockChange.REMOVED:
                    believed -= set(change.hashes)
                else:
                    believed.clear()
        return believed


@contextlib.asynccontextmanager
async def attached(instance: Instance, *watcher_ids: str, **options: Any) -> AsyncIterator[list[Peer]]:
    """These watchers, each welcomed."""
    async with contextlib.AsyncExitStack() as stack:
        peers = []
        for watcher_id in watcher_ids:
            peer = await stack.enter_async_context(Peer(instance.address, watcher_id, **options))
            await peer.until(lambda peer=peer: bool(peer.frames))
            peers.append(peer)
        yield peers
