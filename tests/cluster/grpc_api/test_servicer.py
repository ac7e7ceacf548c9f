import asyncio

import grpc
import pytest
from grpc import aio

from shoal.cluster.client.transport import method
from shoal.cluster.request_context import current_request
from shoal.proto.errors import DeadlinePassed, Forbidden, InvalidArgument, Overloaded, Quarantined, Unavailable
from shoal.proto.v1 import inference_pb2 as pb
from tests.cluster.grpc_api.stubs import BLUE, RED, StubCluster, StubEngine, adopted, letters, output, piece, serving


def ask(**fields):
    return pb.GenerateRequest(**{"text": "abc", **fields})


async def call(server, name, message, key=RED, timeout_s=10):
    async with aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        rpc = method(channel, name)(message, metadata=key, timeout=timeout_s)
        if name in ("Generate", "Resume"):
            return [reply async for reply in rpc]
        return await rpc


async def refusal(server, name, message, key=RED):
    with pytest.raises(aio.AioRpcError) as caught:
        await call(server, name, message, key)
    return caught.value


async def test_replies_carry_every_token_once_in_order_with_its_index():
    async with serving(StubEngine(letters("hello"))) as server:
        replies = await call(server, "Generate", ask(request_id="r1"))
    assert [r.index for r in replies] == [0, 1, 2, 3, 4]
    assert [t for r in replies for t in r.token_ids] == [ord(c) for c in "hello"]
    assert "".join(r.text for r in replies) == "hello"
    assert [r.finish_reason for r in replies] == ["", "", "", "", "length"]
    assert {(r.request_id, r.instance) for r in replies} == {("r1", "i0")}
    assert replies[-1].usage == pb.Usage(prompt_tokens=3, output_tokens=5, cached_tokens=0)
    assert not any(r.HasField("usage") for r in replies[:-1])


async def test_the_engine_client_learns_who_asks_and_how_urgent_it_is():
    engine = StubEngine()
    async with serving(engine) as server:
        words = {"priority": -2, "deadline_s": 7.5, "program": "p", "service_class": "offline"}
        await call(server, "Generate", ask(request_id="r1", **words))
    (seen,) = engine.seen
    assert (seen.engine_id, seen.priority) == ("red/r1", -2)
    context = seen.context
    assert (context.request_id, context.tenant, context.priority, context.deadline_s) == ("r1", "red", -2, 7.5)
    assert (context.program, context.offline) == ("p", True)
    assert context.resume_key == "red/r1"
    assert current_request.get() is None


@pytest.mark.parametrize("fields", [{}, {"request_id": "r1", "sampling": pb.SamplingParams(n=2)}])
async def test_a_request_without_a_name_or_with_several_choices_is_not_resumable(fields):
    engine = StubEngine()
    async with serving(engine) as server:
        await call(server, "Generate", ask(**fields))
    assert engine.seen[0].context.resume_key == ""


async def test_choices_count_their_tokens_apart():
    script = [
        output(piece([1], "a", choice=0), piece([2], "b", choice=1)),
        output(piece([3], "c", finish="stop", stop="c", choice=1), finished=False),
        output(piece([4, 5], "de", finish="length", choice=0)),
    ]
    async with serving(StubEngine(script)) as server:
        replies = await call(server, "Generate", ask(sampling=pb.SamplingParams(n=2)))
    assert [(r.choice, r.index, r.text) for r in replies] == [(0, 0, "a"), (1, 0, "b"), (1, 1, "c"), (0, 1, "de")]
    assert [r.usage.output_tokens for r in replies if r.finish_reason] == [2, 3]
    assert replies[2].stop_reason == "c"


async def test_an_adapter_is_found_by_its_name_and_an_unknown_model_is_not():
    engine = StubEngine()
    async with serving(engine, adapters={"poet": "the adapter"}) as server:
        await call(server, "Generate", ask(model="poet"))
        error = await refusal(server, "Generate", ask(model="prophet"))
        model = await call(server, "GetModel", pb.GetModelRequest())
    assert [s.adapter for s in engine.seen] == ["the adapter"]
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert "['base', 'poet']" in error.details() and "prophet" in error.details()
    assert model == pb.GetModelReply(
        model="base", max_model_len=100, vllm_version="0.32.0", loras=["poet"], instances_ready=2
    )


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (pb.GenerateRequest(), "prompt: must be text or token_ids, not empty, given 'neither'"),
        (pb.GenerateRequest(text=""), "prompt: must be text or token_ids, not empty, given 'text'"),
        (
            pb.GenerateRequest(token_ids=pb.TokenIds()),
            "prompt: must be text or token_ids, not empty, given 'token_ids'",
        ),
        (
            pb.GenerateRequest(token_ids=pb.TokenIds(ids=[1, 256])),
            "token_ids: must be token ids from 0 to 255, given 256",
        ),
        (ask(text="x" * 100), "prompt: must be 1 to 99 tokens, given 100"),
        (ask(text="unrenderable"), "prompt: must be renderable"),
        (ask(request_id="a/b"), "request_id: must be 1 to 128 characters of [A-Za-z0-9._:-], given 'a/b'"),
        (ask(program="a b"), "program: must be at most 128 characters of [A-Za-z0-9._:/-], given 'a b'"),
        (ask(service_class="batch"), "service_class: must be interactive or offline, given 'batch'"),
        (ask(deadline_s=float("nan")), "deadline_s: must be 0 (the default) or more seconds, given nan"),
        (ask(sampling=pb.SamplingParams(top_p=0)), "top_p: must be above 0 and at most 1, given 0.0"),
    ],
)
async def test_a_wrong_value_is_refused_by_name_and_no_engine_sees_it(request_, words):
    engine = StubEngine()
    async with serving(engine) as server:
        error = await refusal(server, "Generate", request_)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().startswith(words)
    assert engine.seen == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidArgument("x", limit="y", given=1), "INVALID_ARGUMENT"),
        (Forbidden("no"), "PERMISSION_DENIED"),
        (Quarantined("present at two crashes"), "FAILED_PRECONDITION"),
        (Overloaded("the queue is full", retry_after_s=1.5), "RESOURCE_EXHAUSTED"),
        (Unavailable("no instance", retry_after_s=2.0), "UNAVAILABLE"),
        (DeadlinePassed("waited 3 s"), "DEADLINE_EXCEEDED"),
    ],
)
@pytest.mark.parametrize("way", ["raised", "by context", "by abort"])
async def test_why_a_request_failed_reaches_its_client(error, code, way):
    async def fail(engine):
        engine.seen[-1].context.error = error
        if way == "by context":
            raise RuntimeError("vLLM's empty words")
        return output(piece(finish="abort"))

    engine = StubEngine([error if way == "raised" else fail])
    async with serving(engine) as server:
        answer = await refusal(server, "Generate", ask())
    assert (answer.code().name, answer.details()) == (code, str(error))
    retry_after_s = dict(answer.trailing_metadata()).get("retry-after-s")
    assert (retry_after_s and float(retry_after_s)) == error.retry_after_s


@pytest.mark.parametrize(
    "script", [[RuntimeError("path of a secret")], [output(piece(finish="error"))], letters("ab")[:1]]
)
async def test_a_fault_of_ours_is_internal_and_tells_nothing(script):
    async with serving(StubEngine(script)) as server:
        error = await refusal(server, "Generate", ask())
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in error.details()


async def test_a_client_that_leaves_ends_its_request():
    async def forever(engine):
        await asyncio.Event().wait()

    engine = StubEngine([letters("ab")[0], forever])
    async with serving(engine) as server, aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        rpc = method(channel, "Generate")(ask(request_id="r1"), metadata=RED)
        assert (await rpc.read()).text == "a"
        rpc.cancel()
        async with asyncio.timeout(10):
            await engine.ended.wait()
            while not engine.aborted:
                await asyncio.sleep(0)
    assert engine.aborted == ["red/r1"]


async def test_cancel_reaches_only_the_tenants_own_request_while_it_runs():
    started, gone = asyncio.Event(), asyncio.Event()

    async def until_aborted(engine):
        started.set()
        await gone.wait()
        return output(piece(finish="abort"))

    class Engine(StubEngine):
        async def abort(self, engine_id):
            await super().abort(engine_id)
            gone.set()

    engine = Engine([until_aborted])
    async with serving(engine) as server:
        running = asyncio.create_task(call(server, "Generate", ask(request_id="r1")))
        async with asyncio.timeout(10):
            await started.wait()
        message = pb.CancelRequest(request_id="r1")
        assert not (await call(server, "Cancel", message, BLUE)).found
        assert engine.aborted == []
        assert (await call(server, "Cancel", message, RED)).found
        (last,) = await running
        assert not (await call(server, "Cancel", message, RED)).found
    assert (last.finish_reason, engine.aborted) == ("abort", ["red/r1"])


async def test_a_name_in_use_is_refused_to_its_tenant_and_free_to_others():
    release = asyncio.Event()

    async def wait(engine):
        await release.wait()

    engine = StubEngine([wait, *letters("ab")])
    async with serving(engine) as server:
        first = asyncio.create_task(call(server, "Generate", ask(request_id="r1")))
        other = asyncio.create_task(call(server, "Generate", ask(request_id="r1"), BLUE))
        async with asyncio.timeout(10):
            while len(engine.seen) < 2:
                await asyncio.sleep(0)
        error = await refusal(server, "Generate", ask(request_id="r1"))
        release.set()
        await asyncio.gather(first, other)
        assert len(await call(server, "Generate", ask(request_id="r1"))) == 2
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_resume_goes_on_at_the_next_token_of_the_adopted_request():
    engine = StubEngine([output(piece([104, 101, 108], "hel")), output(piece([108, 111], "lo", finish="stop"))])
    cluster = StubCluster({("red/r1", "red"): (adopted(), b"opaque")})
    async with serving(engine, cluster) as server:
        replies = await call(server, "Resume", pb.ResumeRequest(request_id="r1", next_index=2))
    assert [(r.index, list(r.token_ids), r.text) for r in replies] == [(2, [108], "l"), (3, [108, 111], "lo")]
    assert replies[-1].usage.output_tokens == 5
    context = engine.seen[0].context
    assert (context.resume_key, context.resume_context, context.priority) == ("red/r1", b"opaque", 3)


async def test_resume_of_anothers_or_of_an_unknown_request_is_not_found():
    cluster = StubCluster({("red/r1", "red"): (adopted(), b"")})
    async with serving(StubEngine(), cluster) as server:
        anothers = await refusal(server, "Resume", pb.ResumeRequest(request_id="r1"), BLUE)
        unknown = await refusal(server, "Resume", pb.ResumeRequest(request_id="r3"))
        assert await call(server, "Resume", pb.ResumeRequest(request_id="r1"))
    assert {e.code() for e in (anothers, unknown)} == {grpc.StatusCode.NOT_FOUND}


@pytest.mark.parametrize("next_index", [6, 17])
async def test_resume_beyond_the_end_is_out_of_range_and_leaves_nothing_running(next_index):
    engine = StubEngine(letters("hello"))
    cluster = StubCluster({("red/r1", "red"): (adopted(), b"opaque")})
    async with serving(engine, cluster) as server:
        error = await refusal(server, "Resume", pb.ResumeRequest(request_id="r1", next_index=next_index))
    assert error.code() is grpc.StatusCode.OUT_OF_RANGE
    assert engine.ended.is_set()


async def test_logprobs_follow_their_tokens_and_prompt_logprobs_come_once():
    def row(token):
        return {token: one(-0.5, 1, "x"), 9: one(-1.5, 2, None)}

    def one(logprob, rank, text):
        return type("Logprob", (), {"logprob": logprob, "rank": rank, "decoded_token": text})()

    script = [
        output(piece([1], "a", logprobs=[row(1)]), prompt_logprobs=[None, row(5)]),
        output(piece([2, 3], "b", finish="length", logprobs=[row(2), row(3)])),
    ]
    async with serving(StubEngine(script)) as server:
        replies = await call(server, "Generate", ask())
    assert [[p.top[0].token_id for p in r.logprobs] for r in replies] == [[1], [2, 3]]
    assert replies[0].logprobs[0].top[1] == pb.TokenLogprob(token_id=9, logprob=-1.5, rank=2, text="")
    assert [len(p.top) for p in replies[0].prompt_logprobs] == [0, 2]
    assert not replies[1].prompt_logprobs
