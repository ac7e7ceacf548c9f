"""The EngineCoreClient under vLLM's unmodified AsyncLLM: vLLM's requests become tickets, accepted outputs become vLLM's
again.

Decides nothing: admission, placement and failover are the dispatcher's. What is impossible is refused here, before any
engine sees it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import msgspec

from shoal.cluster.client_words import OFFLINE_PRIORITY
from shoal.cluster.dispatcher import Dispatcher
from shoal.cluster.frontend_seam import (
    VLLM_VERSION,
    EngineCoreClient,
    EngineCoreOutput,
    EngineCoreOutputs,
    EngineCoreRequest,
    FinishReason,
    MsgpackDecoder,
    MsgpackEncoder,
)
from shoal.cluster.journal import Outcome, Ticket, fingerprint
from shoal.cluster.link import Link
from shoal.cluster.request_context import RequestContext, current_request
from shoal.cluster.tenants import ANYBODY, Tenants
from shoal.proto.codec import INLINE_BYTES
from shoal.proto.config import ClusterConfig
from shoal.proto.errors import InvalidArgument, ShoalError
from shoal.proto.tracing import HEADER
from shoal.proto.v1 import instance_pb2 as pb
from shoal.router.contract import RouteRequest, Traits
from shoal.router.tenant_limits import TenantLimits

ADOPT_TIMEOUT_S = 3.0
CLAIM_S = 10.0
CALL_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Adoption:
    """An orphan that was found for a client who asked for it; claimed when its replay is added, or forgotten."""

    link: Link
    adopted: pb.Adopted
    good_until_s: float


class ClusterClient(EngineCoreClient):
    """One per frontend. `attach` gives it its dispatcher and block hasher before the first request."""

    def __init__(self, config: ClusterConfig, tenants: Tenants, limits: TenantLimits | None = None) -> None:
        self.config, self.tenants, self.limits = config, tenants, limits or TenantLimits()
        self.engine_ranks_managed = [0]  # read once by AsyncLLM: to vLLM the cluster is one engine
        self.resources = SimpleNamespace(engine_dead=False)
        self.encoder, self.decoder = MsgpackEncoder(INLINE_BYTES), MsgpackDecoder(EngineCoreOutputs)
        self.request_decoder = MsgpackDecoder(EngineCoreRequest)
        self.outputs: asyncio.Queue[EngineCoreOutputs] = asyncio.Queue()
        self.adopted: dict[str, Adoption] = {}
        self.dispatcher: Dispatcher
        self.hash_blocks: Callable[[EngineCoreRequest], tuple[bytes, ...]]
        self.output_task: Callable[[], asyncio.Task[None] | None] = lambda: None

    # -- AsyncLLM's hot path

    async def add_request_async(self, request: EngineCoreRequest) -> None:
        context = current_request.get() or RequestContext(request_id=request.request_id, tenant=ANYBODY)
        try:
            self._check(request)
        except ShoalError as exc:
            context.error = exc
            raise
        request.cache_salt = self.tenants.salt(context.tenant, self.config.model_name)
        asked = context.priority or request.priority
        asked = max(asked, OFFLINE_PRIORITY) if context.offline else asked
        request.priority = self.limits.priority(context.tenant, asked)
        if context.traceparent:
            request.trace_headers = {HEADER: context.traceparent}  # vLLM hands it on to the pool's connector
        adoption = self.adopted.pop(context.resume_key, None)
        if adoption is not None and adoption.good_until_s > self.dispatcher.clock():
            ticket = self._ticket(request, context, adoption.adopted.request)
            self.dispatcher.claim(ticket, adoption.link.instance_id, adoption.adopted.epoch + 1, context)
        else:
            await self.dispatcher.submit(self._ticket(request, context, self.encoder.encode(request)[0]), context)

    async def get_output_async(self) -> EngineCoreOutputs:
        return await self.outputs.get()

    async def abort_requests_async(self, request_ids: list[str]) -> None:
        # AsyncLLM's output task aborts what a stop string ended; anybody else's abort means that the client is gone.
        stopped = asyncio.current_task() is self.output_task()
        self.dispatcher.abort(request_ids, Outcome.STOP if stopped else Outcome.ABORTED)

    async def get_supported_tasks_async(self) -> tuple[str, ...]:
        return ("generate",)

    # -- for the dispatcher

    def decode(self, data: bytes) -> EngineCoreOutputs:
        return self.decoder.decode(data)

    def emit(self, batch: EngineCoreOutputs) -> None:
        batch.engine_index, batch.timestamp = 0, time.monotonic()  # the instance's clock may be another machine's
        self.outputs.put_nowait(batch)

    def fail(self, request_id: str) -> None:
        """The last word to AsyncLLM about a request that was started and cannot be finished."""
        self.emit(EngineCoreOutputs(outputs=[EngineCoreOutput(request_id, [], finish_reason=FinishReason.ERROR)]))

    # -- in

    def _check(self, request: EngineCoreRequest) -> None:
        """Limits that vLLM does not have. All else that is impossible, its own input processor has refused already."""
        limits, params = self.config.limits, request.sampling_params
        if params is None or request.mm_features or request.prompt_embeds is not None:
            raise InvalidArgument("request", limit="text generation from text or token ids", given="another kind")
        stops = params.stop if isinstance(params.stop, list) else []
        if len(stops) > limits.stops:
            raise InvalidArgument("stop", limit=f"at most {limits.stops} strings", given=len(stops))
        if params.n > limits.choices:
            raise InvalidArgument("n", limit=f"at most {limits.choices}", given=params.n)
        if not 1e-3 <= params.repetition_penalty <= 1e3:  # beyond, logits overflow for the whole batch
            raise InvalidArgument("repetition_penalty", limit="in 0.001..1000", given=params.repetition_penalty)
        if params.structured_outputs is not None:
            size = len(msgspec.msgpack.encode(params.structured_outputs.__dict__, enc_hook=str))
            if size > limits.grammar_bytes:
                raise InvalidArgument("structured_outputs", limit=f"at most {limits.grammar_bytes} bytes", given=size)

    def _ticket(self, request: EngineCoreRequest, context: RequestContext, payload: bytes) -> Ticket:
        assert request.sampling_params is not None and request.prompt_token_ids is not None
        lora = request.lora_request.lora_name if request.lora_request else None
        now_s = self.dispatcher.clock()
        route = RouteRequest(
            request_id=request.request_id,
            context_tokens=len(request.prompt_token_ids),
            max_new_tokens=request.sampling_params.max_tokens or 1,
            block_hashes=self.hash_blocks(request),
            tenant=context.tenant,
            lora=lora,
            priority=request.priority,
            arrived_s=now_s,
            deadline_s=now_s + (context.deadline_s or self.config.admission.default_deadline_s),
            traits=Traits(temperature=request.sampling_params.temperature, hour=time.localtime().tm_hour),
            program=f"{context.tenant}/{context.program}" if context.program else "",
            offline=context.offline,
        )
        return Ticket(
            route,
            bytes(payload),
            fingerprint(request.prompt_token_ids, self._parameters(request), lora),
            resume_key=context.resume_key,
            resume_context=context.resume_context,
        )

    def _parameters(self, request: EngineCoreRequest) -> bytes:
        """What the engine does with it. Whether its client streams is no part of that."""
        params = copy(request.sampling_params)
        params.output_kind = type(params.output_kind)(0)
        return bytes(self.encoder.encode(params)[0])

    async def adopt(self, resume_key: str, tenant: str) -> tuple[EngineCoreRequest, bytes] | None:
        """See ClusterPort in grpc_api/ports.py."""
        dispatcher = self.dispatcher
        found = await dispatcher.inquiries.find_orphan(
            list(dispatcher.links.values()), resume_key, tenant, ADOPT_TIMEOUT_S
        )
        if found is None:
            return None
        link, adopted = found
        self.adopted[resume_key] = Adoption(link, adopted, dispatcher.clock() + CLAIM_S)
        return self.request_decoder.decode(adopted.request), adopted.resume_context

    def instances_ready(self) -> int:
        return len(self.dispatcher.links)

    # -- rare acts

    async def _call_all(self, method: str, **arguments: Any) -> list[Any]:
        links = list(self.dispatcher.links.values())
        return [
            json.loads(r)
            for r in await self.dispatcher.inquiries.call(links, method, json.dumps(arguments), CALL_TIMEOUT_S)
        ]

    async def add_lora_async(self, lora_request: Any) -> bool:
        """Instances load the configured adapters as they start, late ones too; this tells those that run already."""
        await self._call_all(
            "add_lora",
            lora_name=lora_request.lora_name,
            lora_int_id=lora_request.lora_int_id,
            lora_path=lora_request.lora_path,
        )
        return True

    async def remove_lora_async(self, lora_id: int) -> bool:
        return all(await self._call_all("remove_lora", lora_id=lora_id))

    async def list_loras_async(self) -> set[int]:
        return {i for ids in await self._call_all("list_loras") for i in ids}

    async def pin_lora_async(self, lora_id: int) -> bool:
        return all(await self._call_all("pin_lora", lora_id=lora_id))

    async def reset_prefix_cache_async(self, *_args: Any, **_kwargs: Any) -> bool:
        return all(await self._call_all("reset_prefix_cache"))

    def shutdown(self, timeout: float | None = None) -> None:
        """The frontend closes the dispatcher, on its loop."""


__all__ = ["VLLM_VERSION", "ClusterClient"]
