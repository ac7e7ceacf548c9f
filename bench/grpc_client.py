"""Sends one request at a time over the product's gRPC API and writes down when what arrived: the twin of
http_client.py.

Every way in which a request can end is a kind in the record (see record.py); `run` raises nothing but cancellation.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import grpc

from shoal.bench.http_client import note, settle
from shoal.bench.openai_stream import Chunk
from shoal.bench.record import Record
from shoal.bench.workload import PromptMaker
from shoal.proto.v1 import inference_pb2 as pb
from shoal.proto.v1 import inference_pb2_grpc as stubs

RETRYABLE = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
# Without a ping timeout a frozen or cut-off server would be noticed after a minute only.
CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 2_000),
    ("grpc.max_receive_message_length", 64 << 20),
)


@dataclass(frozen=True, slots=True)
class GrpcTarget:
    """`address` is host:port; `keys` maps tenants to API keys."""

    address: str
    model: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    request_timeout_s: float = 600.0
    max_retries: int = 0


class GrpcClient:
    """Owns the channel. One for a whole run."""

    def __init__(self, target: GrpcTarget, prompts: PromptMaker) -> None:
        self.target, self.prompts = target, prompts

    async def __aenter__(self) -> GrpcClient:
        self._channel = grpc.aio.insecure_channel(self.target.address, options=CHANNEL_OPTIONS)
        self._stub = stubs.InferenceStub(self._channel)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close()

    async def run(self, record: Record) -> None:
        message = self.message(record)
        key = self.target.keys.get(record.request.kind.tenant)
        metadata = (("authorization", f"Bearer {key}"),) if key else ()
        record.sent_s = time.perf_counter()
        while (wait_s := await self._attempt(record, message, metadata)) is not None:
            record.retries += 1
            await asyncio.sleep(wait_s)

    async def _attempt(
        self, record: Record, message: pb.GenerateRequest, metadata: Sequence[tuple[str, str]]
    ) -> float | None:
        call = self._stub.Generate(message, metadata=metadata, timeout=self.target.request_timeout_s)
        try:
            await self._read(record, call)
        except grpc.aio.AioRpcError as exc:
            record.retry_after_s = _retry_after_s(exc)
            retry = record.retries < self.target.max_retries and not record.chunk_s and exc.code() in RETRYABLE
            if retry and record.retry_after_s is not None:
                return record.retry_after_s
            _fail(record, exc, self.target.request_timeout_s)
        finally:
            call.cancel()
        return None

    async def _read(self, record: Record, call: Any) -> None:
        leave_after = record.request.hang_up_after
        if leave_after == 0:
            return record.hang_up(time.perf_counter())
        async for reply in call:
            now_s = time.perf_counter()
            record.instance = record.instance or reply.instance
            note(record, _chunk(reply), now_s)
            if leave_after is not None and record.output_tokens >= leave_after:
                return record.hang_up(now_s)
        settle(record, bool(record.finish_reason))

    def message(self, record: Record) -> pb.GenerateRequest:
        request = record.request
        sampling: dict[str, Any] = {
            "temperature": 0.0,
            "ignore_eos": True,
            "max_tokens": request.output_tokens,
            **self.target.sampling,
        }
        return pb.GenerateRequest(
            model=self.target.model,
            token_ids=pb.TokenIds(ids=self.prompts.prompt(request)),
            sampling=pb.SamplingParams(**sampling),
            priority=request.kind.priority,
        )


def _chunk(reply: pb.GenerateReply) -> Chunk:
    ids = tuple(reply.token_ids)
    usage = reply.usage
    return Chunk(len(ids), ids, reply.text, reply.finish_reason, usage.prompt_tokens, usage.cached_tokens)


def _fail(record: Record, error: grpc.aio.AioRpcError, limit_s: float) -> None:
    now_s, code, text = time.perf_counter(), error.code(), error.details() or ""
    kind = f"grpc_{code.name}"
    if code is grpc.StatusCode.UNAVAILABLE and "failed to connect" in text:
        kind = "connect"  # the library has no code of its own for it
    elif code is grpc.StatusCode.UNAVAILABLE and record.chunk_s:
        kind = "disconnect"
    elif code is grpc.StatusCode.DEADLINE_EXCEEDED and now_s - record.sent_s >= limit_s:
        kind = "timeout"  # ours; a server may report a deadline of its own earlier
    record.fail(now_s, kind, text)


def _retry_after_s(error: grpc.aio.AioRpcError) -> float | None:
    for name, value in error.trailing_metadata() or ():
        if name == "retry-after-s":
            try:
                return max(0.0, float(value))
            except ValueError:
                return None
    return None


__all__ = ["CHANNEL_OPTIONS", "GrpcClient", "GrpcTarget"]
