"""The gRPC face of one instance: one Attach stream per watcher, fed by the step thread through the event loop.

Owns the watchers and their bounded outboxes. A watcher that does not read is cut off, never buffered without end. All
decisions about requests are Holdings'; all about block changes BlockLog's; the engine is touched through the Stepper
only.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import grpc

from shoal.instance.auth import has_token
from shoal.instance.block_log import BlockLog
from shoal.instance.holdings import Held, Holdings
from shoal.instance.seam import Engine, Refused, Submission
from shoal.instance.stepper import EngineDied, Stepper, StepRecord
from shoal.proto.codec import WireOutput
from shoal.proto.errors import BadMessage
from shoal.proto.failpoints import hit
from shoal.proto.v1 import instance_pb2 as pb
from shoal.proto.v1 import instance_pb2_grpc as rpc

PROTOCOL = 1
MAX_FRAMES = 2_000
TICK_S = 0.05
HEARTBEAT_S = 0.25
KINDS = {"stored": pb.BlockChange.STORED, "removed": pb.BlockChange.REMOVED, "cleared": pb.BlockChange.CLEARED}


@dataclass(slots=True)
class Watcher:
    """One attached stream. `frames` is what waits to be sent; None ends the stream."""

    number: int
    watcher_id: str
    wants_blocks: bool
    frames: deque[pb.Down | None] = field(default_factory=deque)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    sent_s: float = 0.0
    sent_load: bytes = b""
    cut: bool = False

    def push(self, frame: pb.Down | None) -> None:
        if self.cut:
            return
        self.cut = len(self.frames) >= MAX_FRAMES
        self.frames.append(None if self.cut else frame)
        self.wake.set()


@dataclass(slots=True)
class Said:
    """What one step says to one watcher."""

    outputs: list[Any] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    indexes: list[int] = field(default_factory=list)

    def add(self, output: Any, epoch: int, index: int) -> None:
        self.outputs.append(output)
        self.epochs.append(epoch)
        self.indexes.append(index)


class InstanceServer(rpc.InstanceServicer):
    """Lives on one event loop. `start` must run there; `deliver` may be called from the step thread."""

    def __init__(self, engine: Engine, *, instance_id: str, role: str, token: str, pid: int, on_death: Any) -> None:
        self.engine, self.instance_id, self.role, self.token, self.pid = engine, instance_id, role, token, pid
        self.on_death = on_death
        self.holdings, self.blocks = Holdings(), BlockLog()
        self.watchers: dict[int, Watcher] = {}
        self.attached = 0
        self.accepted: dict[int, int] = {}  # watcher -> submits taken up; written on the step thread only
        self.accepted_in_load: dict[int, int] = {}
        self.loop = asyncio.get_running_loop()
        self.stepper = Stepper(engine, self._from_step_thread, self._engine_died)
        self.last: StepRecord | None = None
        self.load = pb.Load(total_blocks=engine.info.total_blocks, free_blocks=engine.info.total_blocks)
        self.loras: list[str] = []
        self.draining = False
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
        self.loop.call_soon_threadsafe(self._deliver, record, dict(self.accepted))

    def _engine_died(self, reason: str) -> None:
        self.loop.call_soon_threadsafe(self.on_death, reason)

    # -- on the loop

    def _deliver(self, record: StepRecord, accepted: dict[int, int]) -> None:
        self.last, self.accepted_in_load = record, accepted
        self.blocks.record(record.changes)
        self._update_load()
        now_s = time.monotonic()
        said: dict[int, Said] = {}
        for output in record.outputs:
            self._sort_output(output, said, now_s)
        for number, one in said.items():
            self._send_report(self.watchers[number], one)

    def _sort_output(self, output: Any, said: dict[int, Said], now_s: float) -> None:
        finished = output.finish_reason is not None
        address = self.holdings.said(
            output.request_id, output, len(output.new_token_ids), finished=finished, now_s=now_s
        )
        if address is None:
            return
        output.request_id = address.request_id
        if address.watcher in self.watchers:
            said.setdefault(address.watcher, Said()).add(output, address.epoch, address.index)

    def _update_load(self) -> None:
        assert self.last is not None
        load = self.last.load
        self.load = pb.Load(
            running=load.running,
            waiting=load.waiting + len(self.stepper.not_ready),
            queued_prefill_tokens=load.queued_prefill_tokens,
            uncached_prefill_tokens=load.uncached_prefill_tokens,
            context_tokens=load.context_tokens,
            free_blocks=load.free_blocks,
            total_blocks=load.total_blocks,
            step_ms=self.last.step_ms,
            draining=self.draining,
        )

    def _send_report(self, watcher: Watcher, said: Said | None = None) -> None:
        """The one way to speak to a watcher: its tokens, the load, and the block changes that it has not seen."""
        report = pb.StepReport(
            step=self.stepper.step,
            step_start_s=self.stepper.step_start_s,
            sent_s=time.monotonic(),
            load=self.load,
            block_sequence=self.blocks.sequence,
            accepted=self.accepted_in_load.get(watcher.number, 0),
        )
        report.load.stepping = self.stepper.stepping
        if said is not None:
            report.outputs = self.engine.encode(said.outputs)
            report.epochs.extend(said.epochs)
            report.indexes.extend(said.indexes)
        report.blocks.extend(
            pb.BlockChange(kind=KINDS[c.kind], hashes=c.hashes) for c in self.blocks.take(watcher.number)
        )
        watcher.sent_s, watcher.sent_load = report.sent_s, self.load
        watcher.push(pb.Down(report=report))

    async def _tick(self) -> None:
        """Heartbeats, coalesced news, and the end of what nobody adopted."""
        while True:
            await asyncio.sleep(TICK_S)
            now_s = time.monotonic()
            for watcher in self.watchers.values():
                news = watcher.sent_load != self.load or bool(self.blocks.pending.get(watcher.number))
                if news or now_s - watcher.sent_s >= HEARTBEAT_S:
                    self._send_report(watcher)
            self._abort_engine(self.holdings.expire(now_s))

    def _abort_engine(self, engine_ids: list[str]) -> None:
        if engine_ids:
            self.stepper.abort(engine_ids)

    # -- one stream

    async def Attach(self, request_iterator: AsyncIterator[pb.Up], context: Any) -> AsyncIterator[pb.Down]:
        if not has_token(context.invocation_metadata(), self.token):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "cluster token missing or wrong")
        watcher = await self._welcome(request_iterator, context)
        reader = self.loop.create_task(self._read(watcher, request_iterator))
        try:
            while True:
                while watcher.frames:
                    frame = watcher.frames.popleft()
                    if frame is None:
                        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"reader is {MAX_FRAMES} frames behind")
                    yield frame
                watcher.wake.clear()
                await watcher.wake.wait()
        finally:
            reader.cancel()
            self._end(watcher, replaced=False)

    async def _welcome(self, frames: AsyncIterator[pb.Up], context: Any) -> Watcher:
        first = await anext(aiter(frames), None)
        if first is None or first.WhichOneof("frame") != "hello":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first frame must be Hello")
        hello = first.hello
        info = self.engine.info
        if hello.protocol != PROTOCOL or (hello.vllm_version and hello.vllm_version != info.vllm_version):
            ours = f"protocol {PROTOCOL}, vLLM {info.vllm_version}"
            theirs = f"protocol {hello.protocol}, vLLM {hello.vllm_version}"
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION, f"{self.instance_id} speaks {ours}; {theirs} was offered"
            )
        self.attached += 1
        for former in [w for w in self.watchers.values() if w.watcher_id == hello.watcher_id]:
            self._end(former, replaced=True)
        watcher = Watcher(self.attached, hello.watcher_id, wants_blocks=bool(hello.vllm_version))
        watcher.push(pb.Down(welcome=self.welcome()))
        if watcher.wants_blocks:
            self.blocks.watch(watcher.number)
        self.watchers[watcher.number] = watcher
        return watcher

    def welcome(self) -> pb.Welcome:
        info = self.engine.info
        return pb.Welcome(
            protocol=PROTOCOL,
            instance_id=self.instance_id,
            role=self.role,
            model=info.model,
            vllm_version=info.vllm_version,
            block_size=info.block_size,
            total_blocks=info.total_blocks,
            max_model_len=info.max_model_len,
            max_num_batched_tokens=info.max_num_batched_tokens,
            max_num_seqs=info.max_num_seqs,
            hash_seed=info.hash_seed,
            pid=self.pid,
            loras=self.loras,
            load=self.load,
        )

    def _end(self, watcher: Watcher, *, replaced: bool) -> None:
        if self.watchers.pop(watcher.number, None) is None:
            return
        self.blocks.unwatch(watcher.number)
        self.stepper.ask(lambda: self.accepted.pop(watcher.number, None))
        self._abort_engine(self.holdings.end_watcher(watcher.number, time.monotonic(), replaced=replaced))
        if replaced:
            watcher.cut = True
            watcher.frames.append(None)
            watcher.wake.set()

    async def _read(self, watcher: Watcher, frames: AsyncIterator[pb.Up]) -> None:
        async for frame in frames:
            match frame.WhichOneof("frame"):
                case "submit":
                    self._submit(watcher, frame.submit)
                case "abort":
                    ids = [self.holdings.drop_request(watcher.number, rid) for rid in frame.abort.request_ids]
                    self._abort_engine([engine_id for engine_id in ids if engine_id is not None])
                case "adopt":
                    self._adopt(watcher, frame.adopt)
                case "claim":
                    self._claim(watcher, frame.claim)
                case "call":
                    self._spawn(self._call(watcher, frame.call))

    def _submit(self, watcher: Watcher, submit: pb.Submit) -> None:
        hit("instance.submit")
        submission = Submission(submit.request_id, submit.epoch, submit.request, tuple(submit.delivered))
        held = Held(
            submit.request_id,
            submit.epoch,
            submission.engine_id,
            watcher.number,
            submit.tenant,
            submit.request,
            submission.delivered,
            len(submission.delivered),
            submit.resume_key,
            submit.resume_context,
        )
        if not self.holdings.add(held):
            return
        try:
            added = self.stepper.add(self.engine.prepare(submission))
        except Refused as exc:
            self._refuse(watcher, held, str(exc), client_fault=exc.client_fault)
            added = self.stepper.ask(lambda: None)
        except BadMessage as exc:
            self._refuse(watcher, held, str(exc), client_fault=False)
            added = self.stepper.ask(lambda: None)
        added.add_done_callback(lambda future: self._submitted(watcher, held, future))

    def _submitted(self, watcher: Watcher, held: Held, future: Future[None]) -> None:
        """On the step thread. An engine that died needs no word: its stream ends."""
        self.accepted[watcher.number] = self.accepted.get(watcher.number, 0) + 1
        exc = future.exception()
        if exc is not None and not isinstance(exc, EngineDied):
            self.loop.call_soon_threadsafe(lambda: self._refuse(watcher, held, str(exc), client_fault=False))

    def _refuse(self, watcher: Watcher, held: Held, reason: str, *, client_fault: bool) -> None:
        self.holdings.drop(held.engine_id)
        refused = pb.Refused(request_id=held.request_id, epoch=held.epoch, reason=reason, client_fault=client_fault)
        watcher.push(pb.Down(refused=refused))

    def _adopt(self, watcher: Watcher, adopt: pb.Adopt) -> None:
        held = self.holdings.orphan(adopt.resume_key, adopt.tenant)
        adopted = pb.Adopted(resume_key=adopt.resume_key, found=held is not None)
        if held is not None:
            adopted.epoch, adopted.request, adopted.resume_context = held.epoch, held.request, held.resume_context
        watcher.push(pb.Down(adopted=adopted))

    def _claim(self, watcher: Watcher, claim: pb.Claim) -> None:
        held = self.holdings.claim(
            claim.resume_key, claim.tenant, watcher=watcher.number, request_id=claim.request_id, epoch=claim.epoch
        )
        if held is None:
            refused = pb.Refused(
                request_id=claim.request_id, epoch=claim.epoch, reason="another frontend was faster", client_fault=True
            )
            return watcher.push(pb.Down(refused=refused))
        replay, index = Said(), 0
        for output in [WireOutput("", list(held.delivered)), *held.kept]:
            output.request_id = held.request_id
            if output.new_token_ids or output.finish_reason is not None:
                replay.add(output, held.epoch, index)
            index += len(output.new_token_ids)
        if replay.outputs:
            self._send_report(watcher, replay)

    async def _call(self, watcher: Watcher, call: pb.Call) -> None:
        reply = pb.Reply(call_id=call.call_id)
        try:
            arguments = json.loads(call.arguments_json or "{}")
            result = await asyncio.wrap_future(self.stepper.ask(lambda: self.engine.call(call.method, arguments)))
            reply.result_json = json.dumps(result)
        except Exception as exc:  # every failure is an answer: nobody may wait for ever
            reply.error = f"{type(exc).__name__}: {exc}"[:500]
        watcher.push(pb.Down(reply=reply))

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        for watcher in list(self.watchers.values()):
            self._end(watcher, replaced=True)
        self.stepper.stop()


__all__ = ["HEARTBEAT_S", "MAX_FRAMES", "PROTOCOL", "InstanceServer"]
