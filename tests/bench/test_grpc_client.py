import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from shoal.bench.grpc_client import GrpcClient, GrpcTarget
from shoal.bench.record import End, Record
from shoal.bench.workload import LoadRequest, PromptMaker, RequestClass
from shoal.proto.v1 import inference_pb2 as pb
from shoal.proto.v1 import inference_pb2_grpc as stubs


class FakeInference(stubs.InferenceServicer):
    """Token n of an answer is n; the model's name says how it misbehaves."""

    def __init__(self) -> None:
        self.seen: list[pb.GenerateRequest] = []
        self.metadata: dict[str, str] = {}
        self.left = asyncio.Event()
        self.refusals = 0

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> AsyncIterator[pb.GenerateReply]:
        self.seen.append(request)
        self.metadata = dict(context.invocation_metadata())
        if self.refusals:
            self.refusals -= 1
            context.set_trailing_metadata((("retry-after-s", "0"),))
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "later")
        due = request.sampling.max_tokens
        try:
            for index in range(due):
                if request.model == "broken" and index == 2:
                    await context.abort(grpc.StatusCode.INTERNAL, "engine gone")
                if request.model == "short" and index == 2:
                    return
                last = index == due - 1
                usage = pb.Usage(prompt_tokens=5, output_tokens=due, cached_tokens=2) if last else None
                finish = "length" if last else ""
                yield pb.GenerateReply(index=index, token_ids=[index], finish_reason=finish, usage=usage, instance="i0")
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            self.left.set()
            raise


@pytest.fixture
async def served() -> AsyncIterator[tuple[FakeInference, str]]:
    server, fake = grpc.aio.server(), FakeInference()
    stubs.add_InferenceServicer_to_server(fake, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield fake, f"127.0.0.1:{port}"
    await server.stop(0)


async def ask(
    address: str, model: str = "", output_tokens: int = 6, hang_up_after: int | None = None, **options
) -> Record:
    kind = RequestClass(tenant="acme", priority=3)
    record = Record(LoadRequest(0, 0.0, 5, output_tokens, hang_up_after=hang_up_after, kind=kind))
    async with GrpcClient(GrpcTarget(address, model, **options), PromptMaker(0, 100)) as client:
        await client.run(record)
    return record


async def test_whole_answer(served):
    fake, address = served
    record = await ask(address, keys={"acme": "k1"})
    assert (record.end, record.token_ids, record.instance) == (End.COMPLETED, list(range(6)), "i0")
    assert (record.prompt_tokens, record.cached_tokens, record.output_tokens) == (5, 2, 6)
    assert (len(fake.seen[0].token_ids.ids), fake.seen[0].priority, fake.seen[0].sampling.ignore_eos) == (5, 3, True)
    assert fake.metadata["authorization"] == "Bearer k1"


@pytest.mark.parametrize(("model", "kind"), [("broken", "grpc_INTERNAL"), ("short", "truncated")])
async def test_each_way_to_fail_has_its_kind(served, model, kind):
    record = await ask(served[1], model)
    assert (record.end, record.error_kind, record.output_tokens) == (End.FAILED, kind, 2)


async def test_nobody_listens():
    assert (await ask("127.0.0.1:1")).error_kind == "connect"


async def test_request_timeout(served):
    assert (await ask(served[1], output_tokens=10_000, request_timeout_s=0.2)).error_kind == "timeout"


async def test_retry_after_is_obeyed_only_if_asked(served):
    fake, address = served
    fake.refusals = 1
    assert (await ask(address)).error_kind == "grpc_RESOURCE_EXHAUSTED"
    fake.refusals = 2
    record = await ask(address, max_retries=2)
    assert (record.end, record.retries) == (End.COMPLETED, 2)


async def test_hanging_up_cancels_the_call(served):
    fake, address = served
    record = await ask(address, output_tokens=10_000, hang_up_after=3)
    assert (record.end, record.output_tokens) == (End.HUNG_UP, 3)
    await asyncio.wait_for(fake.left.wait(), 10)
