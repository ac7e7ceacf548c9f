"""The gRPC face of one instance: one Attach stream per watcher, fed by the step thread through the event loop.

Owns the watchers. All decisions about requests are Holdings'; all about block changes BlockLog's; the engine is touched
through the Stepper only. A watcher that does not read is cut off, and its requests with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc

from shoal.instance.block_log import BlockLog
from shoal.instance.frames import (
    PROTOCOL,
    TELL_BLOCKS,
    adopted_frame,
    block_changes,
    load_frame,
    objection,
    welcome_frame,
)
from shoal.instance.holdings import Held, Holdings
from shoal.instance.inner_tls import PLAIN, InnerTls
from shoal.instance.intake import Intake
from shoal.instance.migration.desk import MoveDesk
from shoal.instance.migration.line import GrpcLine
from shoal.instance.seam import Engine
from shoal.instance.stepper import Stepper, StepRecord
from shoal.instance.watcher import MAX_FRAMES, Said, Watcher
from shoal.proto.errors import BadMessage
from shoal.proto.seal import Sealer, SealReader
from shoal.proto.v1 import instance_pb2 as pb
from shoal.proto.v1 import instance_pb2_grpc as rpc

TICK_S = 0.05
HEARTBEAT_S = 0.25


class InstanceServer(rpc.InstanceServicer):
    """Lives on one event loop. `start` must run there; `deliver` may be called from the step thread."""

    def __init__(
        self,
        engine: Engine,
        *,
        instance_id: str,
        role: str,
        token: str,
        pid: int,
        on_death: Any,
        tls: InnerTls = PLAIN,
        core: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine, self.instance_id, self.role, self.token, self.pid = engine, instance_id, role, token, pid
        self.on_death, self.clock = on_death, clock
        self.holdings, self.blocks = Holdings(), BlockLog()
        self.watchers: dict[int, Watcher] = {}
        self.attached = 0
        self.accepted_in_load: dict[int, int] = {}
        self.loop = asyncio.get_running_loop()
        self.stepper = Stepper(engine, self._from_step_thread, self._engine_died, core)
        self.intake = Intake(
            engine,
            self.holdings,
            self.watchers,
            self.loop,
            stepper=lambda: self.stepper,
            abort=self._abort_engine,
        )
        self.load = pb.Load(total_blocks=engine.info.total_blocks, free_blocks=engine.info.total_blocks)
        self.loras: list[str] = []
        self.draining = False
        self.desk = MoveDesk(self, dial=lambda address: GrpcLine(address, token, tls))
        self.tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self.stepper.start()
        self._spawn(self._tick())

    def _spawn(self, coroutine: Any) -> None:
        task = self.loop.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    # -- from the step thread

    def _from_step_thread(self, record: StepRecord) -> None:
        self.loop.call_soon_threadsafe(self._deliver, record, dict(self.intake.accepted))

    def _engine_died(self, reason: str) -> None:
        self.loop.call_soon_threadsafe(self.on_death, reason)

    # -- on the loop

    def _deliver(self, record: StepRecord, accepted: dict[int, int]) -> None:
        self.accepted_in_load = accepted
        self.blocks.record(record.changes)
        self.load = load_frame(record, draining=self.draining)
        now_s = self.clock()
        said: dict[int, Said] = {}
        for output in record.outputs:
            self._sort_output(output, said, now_s)
        for number, one in said.items():
            self._send_report(self.watchers[number], one)

    def _sort_output(self, output: Any, said: dict[int, Said], now_s: float) -> None:
        finished = output.finish_reason is not None
        address = self.holdings.said(output.request_id, output, output.new_token_ids, finished=finished, now_s=now_s)
        if finished:
            self.desk.gone(output.request_id, "finished")
        if address is None:
            return
        output.request_id = address.request_id
        if address.watcher in self.watchers:
            said.setdefault(address.watcher, Said()).add(output, address.epoch, address.index)

    def _send_report(
        self, watcher: Watcher, said: Said | None = None, residents: Sequence[pb.Resident] | None = None
    ) -> None:
        """The one way to speak to a watcher: its tokens, the load, and the block changes that it has not seen."""
        report = pb.StepReport(
            step=self.stepper.step,
            step_start_s=self.stepper.step_start_s,
            sent_s=self.clock(),
            load=self.load,
            block_sequence=self.blocks.sequence,
            accepted=self.accepted_in_load.get(watcher.number, 0),
            heard=watcher.heard,
        )
        report.load.stepping, report.load.predicted_step_ms = self.stepper.stepping, self.stepper.predicted_ms
        if residents is not None:
            report.has_residents = True
            report.residents.extend(residents)
        if said is not None:
            report.outputs = self.engine.encode(said.outputs)
            report.epochs.extend(said.epochs)
            report.indexes.extend(said.indexes)
        report.blocks.extend(block_changes(self.blocks.take(watcher.number)))
        watcher.sent_s, watcher.sent_load = report.sent_s, self.load
        watcher.push(pb.Down(report=report))

    async def _tick(self) -> None:
        """Heartbeats, coalesced news, and the end of what nobody adopted."""
        while True:
            await asyncio.sleep(TICK_S)
            now_s = self.clock()
            for watcher in list(self.watchers.values()):
                news = watcher.sent_load != self.load or bool(self.blocks.pending.get(watcher.number))
                if news or now_s - watcher.sent_s >= HEARTBEAT_S:
                    self._send_report(watcher)
            self._abort_engine(self.holdings.expire(now_s))
            self.desk.tick(now_s)
            if planners := [watcher.number for watcher in self.watchers.values() if not watcher.wants_blocks]:
                self._spawn(self._report_residents(now_s, planners))

    async def _report_residents(self, now_s: float, planners: list[int]) -> None:
        residents = await self.desk.residents(now_s)
        for watcher in [self.watchers[number] for number in planners if number in self.watchers]:
            if residents is not None:
                self._send_report(watcher, residents=residents)

    def _abort_engine(self, engine_ids: list[str]) -> None:
        for engine_id in engine_ids:
            self.desk.gone(engine_id, "aborted")
        if engine_ids:
            self.stepper.abort(engine_ids)

    # -- streams

    async def Transfer(self, request_iterator: AsyncIterator[pb.Parcel], context: Any) -> AsyncIterator[pb.Receipt]:
        async with contextlib.aclosing(self.desk.transfer(request_iterator)) as receipts:
            async for receipt in receipts:
                yield receipt

    async def Attach(self, request_iterator: AsyncIterator[pb.Up], context: Any) -> AsyncIterator[pb.Down]:
        watcher, seals = await self._welcome(request_iterator, context)
        reader = self.loop.create_task(self._read(watcher, request_iterator, seals))
        sealer = Sealer()
        try:
            while (frame := await watcher.next()) is not None:
                sealer.seal(frame)
                yield frame
            code, words = watcher.ended or ("INTERNAL", "ended without a reason")
            await context.abort(grpc.StatusCode[code], words)
        finally:
            reader.cancel()
            self._leave(watcher)

    async def _welcome(self, frames: AsyncIterator[pb.Up], context: Any) -> tuple[Watcher, SealReader | None]:
        """Who came, and the judge of its further frames if the first one was sealed."""
        first = await anext(aiter(frames), None)
        if first is None or first.WhichOneof("frame") != "hello":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first frame must be Hello")
        seals = SealReader() if first.seal else None
        try:
            if seals is not None:
                seals.check(first)
        except BadMessage as exc:
            await context.abort(grpc.StatusCode.DATA_LOSS, str(exc))
        hello = first.hello
        why = objection(hello, self.engine.info)
        if why is not None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"{self.instance_id}: {why}")
        return self.seat(hello, sealed=seals is not None), seals

    def seat(self, hello: pb.Hello, *, sealed: bool) -> Watcher:
        """A new stream of that watcher; an earlier one, and what it left, is over."""
        for former in [w for w in self.watchers.values() if w.watcher_id == hello.watcher_id]:
            former.end("ABORTED", "a later stream of this watcher took over")
            self._leave(former)
        self._abort_engine(self.holdings.returned(hello.watcher_id))
        self.attached += 1
        watcher = Watcher(self.attached, hello.watcher_id, bool(hello.vllm_version), self._leave)
        welcome = self.welcome()
        welcome.welcome.sealed = sealed
        watcher.push(welcome)
        if watcher.wants_blocks:
            self.blocks.watch(watcher.number)
        self.watchers[watcher.number] = watcher
        return watcher

    def welcome(self) -> pb.Down:
        return welcome_frame(
            self.engine.info,
            instance_id=self.instance_id,
            role=self.role,
            pid=self.pid,
            loras=self.loras,
            load=self.load,
        )

    def _leave(self, watcher: Watcher) -> None:
        """Its stream is over, or as good as over: nothing is kept for it but what another frontend may adopt."""
        if self.watchers.pop(watcher.number, None) is None:
            return
        watcher.end("CANCELLED", "over")
        self.blocks.unwatch(watcher.number)
        self.stepper.ask(lambda: self.intake.accepted.pop(watcher.number, None))
        self.desk.owner_lost(watcher.number)
        self._abort_engine(self.holdings.end_watcher(watcher.number, self.clock()))

    async def _read(self, watcher: Watcher, frames: AsyncIterator[pb.Up], seals: SealReader | None = None) -> None:
        """Frames in, until the peer sends no more. A stream that cannot be read to the end has no use."""
        try:
            async for frame in frames:
                if watcher.number not in self.watchers:
                    return
                if seals is not None:
                    seals.check(frame)
                    watcher.heard = seals.count
                self._take(watcher, frame)
        except Exception as exc:
            watcher.end("INTERNAL", f"{type(exc).__name__}: {exc}"[:200])

    def _take(self, watcher: Watcher, frame: pb.Up) -> None:
        match frame.WhichOneof("frame"):
            case "submit":
                self.intake.submit(watcher, frame.submit)
            case "abort":
                ids = [self.holdings.drop_request(watcher.number, rid) for rid in frame.abort.request_ids]
                self._abort_engine([engine_id for engine_id in ids if engine_id is not None])
            case "adopt":
                held = self.holdings.orphan(frame.adopt.resume_key, frame.adopt.tenant)
                watcher.push(adopted_frame(frame.adopt.resume_key, held))
            case "claim":
                said = self.intake.claim(watcher, frame.claim)
                if said is not None and said.outputs:
                    self._send_report(watcher, said)
            case "call":
                self._spawn(self._call(watcher, frame.call))
            case "peers":
                self.desk.peers = dict(frame.peers.addresses)
            case "move":
                frame.move.frontend = frame.move.frontend or watcher.watcher_id  # a frontend moves its own
                self.desk.move(watcher.number, frame.move)
            case "settle":
                self.desk.settle(watcher.number, frame.settle)
            case "takeover":
                word = frame.takeover
                self.intake.take_over(
                    watcher, word, lambda: self.desk.takeover(watcher.number, watcher.watcher_id, word)
                )
            case "steer":
                self._steer(frame.steer)

    def _steer(self, steer: pb.Steer) -> None:
        self.draining, self.role = steer.draining, steer.role or self.role
        load = pb.Load()
        load.CopyFrom(self.load)
        load.draining = steer.draining
        self.load = load  # a new one: the next tick sees that it differs from what was sent

    def run_here(self, held: Held, run: Callable[[], None]) -> bool:
        """See `Home`."""
        return self.intake.run_here(held, run)

    def tell(self, watcher: int | None, frame: pb.Down) -> None:
        """See `Home`."""
        if watcher in self.watchers:
            self.watchers[watcher].push(frame)

    async def _call(self, watcher: Watcher, call: pb.Call) -> None:
        reply = pb.Reply(call_id=call.call_id)
        try:
            if call.method == TELL_BLOCKS and watcher.number in self.watchers:
                self.blocks.watch(watcher.number)
                return
            arguments = json.loads(call.arguments_json or "{}")
            result = await asyncio.wrap_future(self.stepper.ask(lambda: self.engine.call(call.method, arguments)))
            reply.result_json = json.dumps(result)
        except Exception as exc:  # every failure is an answer: nobody may wait for ever
            reply.error = f"{type(exc).__name__}: {exc}"[:500]
        watcher.push(pb.Down(reply=reply))

    async def stop(self) -> None:
        await self.desk.stop()
        for task in self.tasks:
            task.cancel()
        for watcher in list(self.watchers.values()):
            watcher.end("UNAVAILABLE", f"{self.instance_id} is stopping")
            self._leave(watcher)
        self.stepper.stop()


__all__ = ["HEARTBEAT_S", "MAX_FRAMES", "PROTOCOL", "InstanceServer"]
