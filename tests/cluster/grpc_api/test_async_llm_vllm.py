"""The gRPC API over a real AsyncLLM, whose engine core is a stub that answers a prompt with its own tokens."""

import asyncio
from types import SimpleNamespace

import pytest
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason
from vllm.v1.engine.core_client import EngineCoreClient
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

from shoal.cluster.client import AsyncShoalClient, CallFailed
from shoal.cluster.frontend_seam import EngineCoreRequest, llm_over, parse_flags
from shoal.cluster.grpc_api.ports import Models
from shoal.cluster.grpc_api.server import start_server
from shoal.cluster.grpc_api.servicer import InferenceServicer
from shoal.cluster.grpc_api.vllm_port import VllmEngine
from shoal.cluster.request_context import current_request
from shoal.instance.tiny_model import ensure_tiny_model
from shoal.proto.errors import Overloaded
from shoal.proto.limits import LimitsConfig
from shoal.proto.v1 import inference_pb2 as pb

pytestmark = pytest.mark.vllm

MAX_MODEL_LEN = 256


class EchoCore(EngineCoreClient):
    """Answers with the prompt's tokens, in bundles of `bundle`, and never ends one of 20 tokens or more."""

    def __init__(self):
        self.engine_ranks_managed, self.resources = [0], SimpleNamespace(engine_dead=False)
        self.outputs = asyncio.Queue()
        self.requests, self.aborted, self.orphans = {}, [], {}
        self.bundle, self.refuse = 1, None

    async def get_supported_tasks_async(self):
        return ("generate",)

    async def add_request_async(self, request):
        context = current_request.get()
        context.instance = "i0"
        if self.refuse:
            context.error = self.refuse
            raise self.refuse
        self.requests[request.request_id] = (request, context)
        tokens = request.prompt_token_ids[-request.sampling_params.max_tokens :]
        for start in range(0, len(tokens), self.bundle):
            part = tokens[start : start + self.bundle]
            last = start + self.bundle >= len(tokens) and len(tokens) < 20
            end = FinishReason.LENGTH if last else None
            self.outputs.put_nowait(
                EngineCoreOutputs(outputs=[EngineCoreOutput(request.request_id, part, finish_reason=end)])
            )

    async def get_output_async(self):
        await asyncio.sleep(0.001)  # so that outputs are not all merged into one
        return await self.outputs.get()

    async def abort_requests_async(self, request_ids):
        self.aborted += request_ids

    async def adopt(self, resume_key, tenant):
        found = self.orphans.pop(resume_key, None)
        return found and (MsgpackDecoder(EngineCoreRequest).decode(found), b"")

    def instances_ready(self):
        return 1

    def shutdown(self, timeout=None):
        pass


@pytest.fixture(scope="module")
def flags():
    model = str(ensure_tiny_model())
    return parse_flags(
        ["--model", model, "--max-model-len", str(MAX_MODEL_LEN), "--dtype", "float32", "--enforce-eager"]
    )


async def test_everything_a_client_may_ask_for_over_one_async_llm(flags):
    core = EchoCore()
    llm = llm_over(core, flags)
    servicer = InferenceServicer(VllmEngine(llm), core, LimitsConfig(), Models("tiny"))
    server = await start_server(servicer, lambda header: "t", LimitsConfig())
    try:
        async with AsyncShoalClient(f"127.0.0.1:{server.port}") as client:
            await check_answers(client, core)
            await check_refusals(client, core)
            await check_ends(client, core)
            await check_resume(client, core)
        assert llm.get_num_unfinished_requests() == 0
    finally:
        await server.stop(0)
        llm.shutdown()


async def check_answers(client, core):
    answer = await client.generate("hé 🐟", max_tokens=19).complete()
    assert (answer.text.endswith("hé 🐟"), answer.choices[0].finish_reason) == (True, "length")
    assert answer.prompt_tokens > 0 and answer.output_tokens == len(answer.choices[0].token_ids)
    answer = await client.generate(token_ids=[40, 41, 42], max_tokens=3, n=2, temperature=1).complete()
    assert [c.token_ids for c in answer.choices] == [[40, 41, 42]] * 2
    answer = await client.generate("abcdef", max_tokens=19, stop="d").complete()
    assert (answer.text.endswith("abc"), answer.choices[0].stop_reason) == (True, "d")
    assert (await client.get_model()).max_model_len == MAX_MODEL_LEN


async def check_refusals(client, core):
    seen = len(core.requests)
    for fields, words in [
        ({"prompt": "x" * 2000}, "prompt: must be 1 to 255 tokens"),
        ({"token_ids": [100_000_000]}, "token_ids: must be token ids from 0 to"),
        ({"token_ids": [1] * 256}, "prompt: must be 1 to 255 tokens, given 256"),
        ({"prompt": "x", "max_tokens": 256}, "max_tokens: must be at most"),
        ({"prompt": "x", "regex": "("}, "must be as vLLM asks"),
        ({"prompt": "x", "grammar": "root ::= ("}, "must be as vLLM asks"),
        ({"prompt": "x", "bad_words": [f"w{i}" for i in range(300)]}, "bad_words: must be as vLLM asks (Too many"),
    ]:
        with pytest.raises(CallFailed) as caught:
            await client.generate(**fields).complete()
        assert caught.value.code == "INVALID_ARGUMENT", caught.value
        assert words in caught.value.message
    assert len(core.requests) == seen
    core.refuse = Overloaded("the queue is full")
    with pytest.raises(CallFailed, match="RESOURCE_EXHAUSTED: the queue is full"):
        await client.generate("x").complete()
    core.refuse = None


async def check_ends(client, core):
    endless = list(range(30, 60))
    async with client.generate(token_ids=endless, max_tokens=30, request_id="left") as stream:
        await anext(stream)
    async with asyncio.timeout(10):
        while not any("left" in i for i in core.aborted):
            await asyncio.sleep(0.01)
    stream = client.generate(token_ids=endless, max_tokens=30, request_id="cancelled")
    await anext(stream)
    assert await client.cancel("cancelled")
    assert [r.finish_reason async for r in stream][-1] == "abort"
    assert any("cancelled" in i for i in core.aborted)


async def check_resume(client, core):
    """The frontend before us died; the request it had encoded is adopted and replayed in other bundles."""
    first = [r async for r in client.generate("né 🐟 and stop", max_tokens=19, request_id="r", stop=["never"])]
    request, context = next(v for v in core.requests.values() if v[1].request_id == "r")
    assert context.resume_key == "t/r"
    encoded = bytes(MsgpackEncoder(size_threshold=1 << 30).encode(request)[0])
    core.bundle = 3
    assert len(first) > 5
    for had in range(len(first)):
        core.orphans["t/r"] = encoded
        message = pb.ResumeRequest(request_id="r", next_index=first[had].index)
        rest = [r async for r in client._call(client._addresses[0], "Resume", message, 10)]
        for field in ("text", "token_ids"):
            assert joined(field, first[:had] + rest) == joined(field, first)
        assert (rest[0].index, rest[-1].finish_reason) == (first[had].index, "length")
        assert rest[-1].usage == first[-1].usage


def joined(field, replies):
    return [part for r in replies for part in getattr(r, field)]
