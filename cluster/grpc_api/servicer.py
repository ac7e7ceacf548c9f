"""The methods of shoal.v1.Inference over an unmodified AsyncLLM.

Names: a client's request id is unique within its tenant; `tenant/request_id` names the request to vLLM, is its resume
key, and is what Cancel ends. So no tenant can reach another's request: for it there is none, and the answer is
NOT_FOUND. A request is resumable where the client named it and asked for one choice. A request ends when its call ends,
however that comes about.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from shoal.cluster.client_words import is_offline, program_of
from shoal.cluster.grpc_api.edge import Write
from shoal.cluster.grpc_api.ports import ClusterPort, EnginePort, Models, Output
from shoal.cluster.grpc_api.replies import Replies
from shoal.cluster.grpc_api.resume import ResumeCut
from shoal.cluster.grpc_api.sampling import check_deadline_s, check_sampling, check_token_ids, fit, short
from shoal.cluster.request_context import RequestContext, open_request
from shoal.proto.errors import InvalidArgument, NotFound, ServerFault, ShoalError, Unavailable
from shoal.proto.limits import LimitsConfig
from shoal.proto.v1 import inference_pb2 as pb

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
ADOPT_TIMEOUT_S = 10.0
FAILED = frozenset({"error", "abort"})


class InferenceServicer:
    """Sole owner of the set of requests that gRPC clients of this frontend have running."""

    def __init__(
        self,
        engine: EnginePort,
        cluster: ClusterPort,
        limits: LimitsConfig,
        models: Models,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self._engine, self._cluster, self._limits, self._models = engine, cluster, limits, models
        self._new_id = new_id
        self._running: set[str] = set()

    async def generate(self, request: pb.GenerateRequest, tenant: str, write: Write) -> None:
        facts = self._engine.facts()
        request_id = check_request_id(request.request_id) if request.request_id else self._new_id()
        adapter = self._models.resolve(request.model)
        deadline_s = check_deadline_s(request.deadline_s)
        sampling = check_sampling(request.sampling, facts, self._limits)
        prompt = await self._engine.render(self._prompt(request))
        sampling = fit(sampling, prompt.token_count, facts)
        key = f"{tenant}/{request_id}"
        resumable = bool(request.request_id) and sampling.choices == 1
        context = RequestContext(
            request_id=request_id,
            tenant=tenant,
            priority=request.priority,
            deadline_s=deadline_s,
            program=program_of("program", request.program),
            offline=is_offline("service_class", request.service_class),
            resume_key=key if resumable else "",
        )
        with self._run(key, request_id), open_request(context):
            outputs = self._engine.generate(prompt, sampling, key, adapter, request.priority)
            await self._stream(key, outputs, Replies(request_id), context, write)

    async def resume(self, request: pb.ResumeRequest, tenant: str, write: Write) -> None:
        request_id = check_request_id(request.request_id)
        key = f"{tenant}/{request_id}"
        with self._run(key, request_id):
            adopted, resume_context = await self._adopt(key, tenant, request_id)
            context = RequestContext(
                request_id=request_id,
                tenant=tenant,
                priority=adopted.priority,
                resume_key=key,
                resume_context=resume_context,
            )
            with open_request(context):
                replies = Replies(request_id, self._rest(request.next_index, adopted), request.next_index)
                await self._stream(key, self._engine.replay(adopted, key), replies, context, write)

    async def cancel(self, request: pb.CancelRequest, tenant: str) -> pb.CancelReply:
        key = f"{tenant}/{check_request_id(request.request_id)}"
        found = key in self._running
        if found:
            await self._engine.abort(key)
        return pb.CancelReply(found=found)

    async def get_model(self, request: pb.GetModelRequest, tenant: str) -> pb.GetModelReply:
        self._models.resolve(request.model)
        facts = self._engine.facts()
        return pb.GetModelReply(
            model=request.model or self._models.base,
            max_model_len=facts.max_model_len,
            vllm_version=facts.vllm_version,
            loras=sorted(self._models.adapters()),
            instances_ready=self._cluster.instances_ready(),
        )

    def _prompt(self, request: pb.GenerateRequest) -> str | list[int]:
        match request.WhichOneof("prompt"):
            case "text" if request.text:
                return request.text
            case "token_ids" if request.token_ids.ids:
                return check_token_ids("token_ids", request.token_ids.ids, self._engine.facts())
            case kind:
                raise InvalidArgument("prompt", limit="text or token_ids, not empty", given=kind or "neither")

    @contextmanager
    def _run(self, key: str, request_id: str) -> Iterator[None]:
        if key in self._running:
            raise InvalidArgument("request_id", limit="one that is not in use", given=request_id)
        self._running.add(key)
        try:
            yield
        finally:
            self._running.discard(key)

    async def _adopt(self, key: str, tenant: str, request_id: str) -> tuple[Any, bytes]:
        try:
            async with asyncio.timeout(ADOPT_TIMEOUT_S):
                found = await self._cluster.adopt(key, tenant)
        except TimeoutError:
            raise Unavailable("request_id: no instance said whether it has it", retry_after_s=1.0) from None
        if found is None:
            raise NotFound(f"request_id: no request {request_id!r} waits to be resumed")
        return found

    def _rest(self, next_index: int, adopted: Any) -> ResumeCut:
        return ResumeCut(next_index, adopted.sampling_params.max_tokens, self._engine.released_chars(adopted))

    async def _stream(
        self, key: str, outputs: AsyncGenerator[Output, None], replies: Replies, context: RequestContext, write: Write
    ) -> None:
        """Until the request has ended, in either way; when this returns or raises, nothing of it runs any more."""
        finished = False
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    finished = output.finished
                    for reply in replies.of(output, context.instance):
                        if reply.finish_reason in FAILED and (context.error or reply.finish_reason == "error"):
                            raise context.error or ServerFault("the engine gave this request up")
                        await write(reply)
        except Exception as exc:
            if context.error is None or isinstance(exc, ShoalError):
                raise
            raise context.error from exc
        finally:
            if not finished:
                await self._engine.abort(key)
        if not finished:
            raise context.error or ServerFault("the output ended before the request did")


def check_request_id(given: str) -> str:
    if not REQUEST_ID.fullmatch(given):
        raise InvalidArgument("request_id", limit="1 to 128 characters of [A-Za-z0-9._:-]", given=short(given))
    return given


__all__ = ["InferenceServicer"]
