"""A frontend without HTTP and tokenizer, in the benchmark's own process: the real dispatcher, membership watch and
links behind the `Client` of `driver`. What it measures is placing and moving, over the real inner protocol.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from random import Random

from shoal.bench.record import Record
from shoal.bench.workload import PromptMaker
from shoal.cluster.dispatcher import Dispatcher
from shoal.cluster.journal import Ticket, fingerprint
from shoal.cluster.membership_watch import MembershipWatch
from shoal.cluster.request_context import RequestContext
from shoal.instance.engine_factory import FAKE_VERSION_FOR_FRONTENDS
from shoal.proto import codec
from shoal.proto.codec import FINISH_LENGTH, FINISH_STOP, WireOutputs, WireRequest
from shoal.proto.config import AdmissionConfig
from shoal.proto.errors import ShoalError
from shoal.proto.v1 import controller_pb2 as cpb
from shoal.router.contract import RouteRequest
from shoal.router.profile import build_policy

LIMITS = AdmissionConfig(max_requests=1 << 16, max_queued_tokens=1 << 30)
DEADLINE_S = 600.0


class DirectFrontend:
    """`run` is one client's request. Owns its dispatcher and watch until `stop`."""

    def __init__(self, name: str, policy: str, controller: str, token: str, prompts: PromptMaker, seed: int) -> None:
        self.name, self.prompts = name, prompts
        self.open: dict[str, tuple[Record, asyncio.Event]] = {}
        self.made = 0
        self.dispatcher = Dispatcher(
            policy=build_policy(policy),
            limits=LIMITS,
            rng=Random(seed),
            decode=lambda data: codec.decode(WireOutputs, data),
            emit=self._emit,
            fail=self._fail,
        )
        self.watch = MembershipWatch(
            controller=lambda: controller,
            token=token,
            frontend=cpb.FrontendInfo(id=name),
            vllm_version=FAKE_VERSION_FOR_FRONTENDS,
            hash_seed="fake",
            dispatcher=self.dispatcher,
        )
        self.watch.start()

    async def linked(self, instances: int, within_s: float = 30.0) -> None:
        async with asyncio.timeout(within_s):
            while len(self.dispatcher.links) < instances:
                await asyncio.sleep(0.02)

    async def run(self, record: Record) -> None:
        self.made += 1
        request_id = f"{self.name}-{self.made}"
        ended = asyncio.Event()
        self.open[request_id] = (record, ended)
        context = RequestContext(request_id=request_id, tenant="bench")
        record.sent_s = time.perf_counter()
        try:
            await self.dispatcher.submit(self._ticket(request_id, record), context)
            await ended.wait()
        except ShoalError as exc:
            record.fail(time.perf_counter(), type(exc).__name__, str(exc))
        finally:
            if self.open.pop(request_id, None) is not None and not ended.is_set():
                self.dispatcher.abort([request_id])
        record.instance = context.instance or ""

    def _ticket(self, request_id: str, record: Record) -> Ticket:
        asked, now_s = record.request, self.dispatcher.clock()
        prompt = self.prompts.prompt(asked)
        sampling = {"max_tokens": asked.output_tokens, "ignore_eos": True}
        wire = WireRequest(request_id, prompt, None, sampling, None, time.time(), None, None)
        wire.priority = asked.kind.priority
        route = RouteRequest(
            request_id=request_id,
            context_tokens=len(prompt),
            max_new_tokens=asked.output_tokens,
            priority=asked.kind.priority,
            arrived_s=now_s,
            deadline_s=now_s + DEADLINE_S,
        )
        return Ticket(route, codec.encode(wire), fingerprint(prompt, request_id.encode(), None))

    def _emit(self, batch: WireOutputs) -> None:
        now_s = time.perf_counter()
        for output in batch.outputs:
            record, ended = self.open[output.request_id]
            if output.new_token_ids:
                record.add_chunk(now_s, len(output.new_token_ids))
                record.token_ids += output.new_token_ids
            if output.finish_reason is None:
                continue
            if output.finish_reason in (FINISH_STOP, FINISH_LENGTH):
                record.complete(now_s)
            else:
                record.fail(now_s, "stream_error", f"finished by {output.finish_reason}")
            ended.set()

    def _fail(self, request_id: str) -> None:
        record, ended = self.open[request_id]
        record.fail(time.perf_counter(), "stream_error", "failed by its frontend")
        ended.set()

    async def stop(self) -> None:
        await self.watch.close()
        await self.dispatcher.close()


def lost(records: Sequence[Record]) -> int:
    return sum(bool(record.error_kind) and record.error_kind != "interrupted" for record in records)


__all__ = ["DirectFrontend", "lost"]
