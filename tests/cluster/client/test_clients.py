"""Both clients keep the same promises: each test runs over the asyncio client and, in a thread, over the sync one."""

import asyncio
from random import Random

import pytest

from shoal.cluster.client import AsyncShoalClient, CallFailed, RetryPolicy, ShoalClient
from shoal.proto.v1 import inference_pb2 as pb
from tests.cluster.client.frontends import Frontend, listening

GONE = ("UNAVAILABLE", "gone", None)
POLICY = RetryPolicy(attempts=3)


def reply(index, text, finish=""):
    return pb.GenerateReply(
        request_id="r", index=index, token_ids=[ord(c) for c in text], text=text, finish_reason=finish
    )


class First(Random):
    """Chance that begins at the first address and does not jitter."""

    def randrange(self, *args):
        return 0

    def uniform(self, a, b):
        return b


class AsyncDriver:
    def __init__(self, addresses, **options):
        self.waits = []

        async def sleep(seconds):
            self.waits.append(seconds)

        self.client = AsyncShoalClient(addresses, policy=POLICY, rng=First(), sleep=sleep, **options)

    async def complete(self, *args, **fields):
        return await self.client.generate(*args, **fields).complete()

    async def first(self, *args, **fields):
        async with self.client.generate(*args, **fields) as stream:
            return await anext(stream)

    async def call(self, name, *args):
        return await getattr(self.client, name)(*args)

    async def close(self):
        await self.client.close()


class SyncDriver:
    def __init__(self, addresses, **options):
        self.waits = []
        self.client = ShoalClient(addresses, policy=POLICY, rng=First(), sleep=self.waits.append, **options)

    async def complete(self, *args, **fields):
        return await asyncio.to_thread(lambda: self.client.generate(*args, **fields).complete())

    async def first(self, *args, **fields):
        def take():
            with self.client.generate(*args, **fields) as stream:
                return next(stream)

        return await asyncio.to_thread(take)

    async def call(self, name, *args):
        return await asyncio.to_thread(getattr(self.client, name), *args)

    async def close(self):
        self.client.close()


@pytest.fixture(params=[AsyncDriver, SyncDriver], ids=["asyncio", "sync"])
async def connect(request):
    drivers = []

    def make(addresses, **options):
        drivers.append(request.param(addresses, **options))
        return drivers[-1]

    yield make
    for driver in drivers:
        await driver.close()


async def test_an_answer_and_the_request_that_asked_for_it(connect):
    frontend = Frontend([reply(0, "he"), reply(2, "llo", "length")])
    async with listening(frontend) as addresses:
        answer = await connect(addresses[0], key="k").complete(
            "abc", request_id="r", model="m", priority=4, deadline_s=2.5, max_tokens=5
        )
    assert (answer.text, answer.choices[0].finish_reason) == ("hello", "length")
    (request,) = frontend.calls
    assert (request.text, request.request_id, request.model) == ("abc", "r", "m")
    assert (request.priority, request.deadline_s, request.sampling.max_tokens) == (4, 2.5, 5)
    assert frontend.keys == ["Bearer k"]


async def test_before_the_first_token_another_address_is_tried_when_the_server_says(connect):
    busy = Frontend([("RESOURCE_EXHAUSTED", "full", 7)])
    free = Frontend([reply(0, "hello", "length")])
    async with listening(busy, free) as addresses:
        driver = connect(addresses)
        assert (await driver.complete("abc", request_id="r")).text == "hello"
    assert driver.waits == [7 * 1.2]
    assert [c.request_id for c in busy.calls + free.calls] == ["r", "r.1"]


async def test_a_dead_address_is_passed_over(connect):
    dead, alive = Frontend(), Frontend([reply(0, "hello", "length")])
    async with listening(dead) as (gone,):
        pass
    async with listening(alive) as (address,):
        driver = connect([gone, address])
        assert (await driver.complete("abc")).text == "hello"
    assert driver.waits == [0.05]


async def test_it_gives_up_after_so_many_attempts(connect):
    frontend = Frontend([GONE], [GONE], [GONE], [reply(0, "x", "stop")])
    async with listening(frontend) as addresses:
        driver = connect(addresses)
        with pytest.raises(CallFailed, match="UNAVAILABLE: gone"):
            await driver.complete("abc")
    assert driver.waits == [0.05, 0.1]


async def test_a_stream_whose_frontend_died_goes_on_through_another_with_no_token_lost_or_doubled(connect):
    dying = Frontend([reply(0, "he"), GONE], [reply(4, "o wor"), reply(9, "ld", "length")])
    other = Frontend([("NOT_FOUND", "not yet", None)], [reply(2, "ll"), GONE])
    # The lost one, then the other twice (it does not know yet, and then dies itself), then the first again.
    async with listening(dying, other) as (a, b):
        answer = await connect([a, b, b, a]).complete("abc", request_id="r")
    assert answer.text == "hello world"
    assert answer.choices[0].token_ids == [ord(c) for c in "hello world"]
    resumes = [c for c in dying.calls + other.calls if isinstance(c, pb.ResumeRequest)]
    assert sorted((r.request_id, r.next_index) for r in resumes) == [("r", 2), ("r", 2), ("r", 4)]


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "UNAUTHENTICATED", "PERMISSION_DENIED", "INTERNAL"])
async def test_a_refusal_is_raised_as_it_is(connect, code):
    frontend = Frontend([(code, "field: must be x, given y", None)])
    async with listening(frontend) as addresses:
        with pytest.raises(CallFailed) as caught:
            await connect(addresses).complete("abc", request_id="r")
    assert (caught.value.code, caught.value.message) == (code, "field: must be x, given y")
    assert (caught.value.request_id, caught.value.delivered) == ("r", 0)


async def test_the_whole_ends_at_its_timeout(connect):
    async def forever():
        await asyncio.Event().wait()

    frontend = Frontend([reply(0, "he"), forever])
    async with listening(frontend) as addresses:
        with pytest.raises(CallFailed) as caught:
            await connect(addresses).complete("abc", timeout_s=0.5)
    assert (caught.value.code, caught.value.delivered) == ("DEADLINE_EXCEEDED", 2)


async def test_a_stream_left_early_ends_its_request(connect):
    async def forever():
        await asyncio.Event().wait()

    frontend = Frontend([reply(0, "he"), forever])
    async with listening(frontend) as addresses:
        assert (await connect(addresses).first("abc")).text == "he"
        async with asyncio.timeout(10):
            while not frontend.left:
                await asyncio.sleep(0.01)


async def test_the_model_is_asked_for_again_where_a_frontend_is_gone(connect):
    frontends = Frontend([GONE]), Frontend([pb.GetModelReply(model="m")])
    async with listening(*frontends) as addresses:
        assert (await connect(addresses).call("get_model", "m")).model == "m"


async def test_cancel_asks_every_frontend_until_one_had_it(connect):
    frontends = [Frontend([pb.CancelReply(found=found)]) for found in (False, True, True)]
    async with listening(*frontends) as addresses:
        assert await connect(addresses).call("cancel", "r")
    assert [f.calls for f in frontends] == [[pb.CancelRequest(request_id="r")]] * 2 + [[]]


@pytest.mark.parametrize("found", [True, False])
async def test_a_frontend_that_cannot_be_asked_matters_only_where_no_other_had_it(connect, found):
    frontends = Frontend([GONE], [GONE], [GONE]), Frontend([pb.CancelReply(found=found)])
    async with listening(*frontends) as addresses:
        cancelling = connect(addresses).call("cancel", "r")
        if found:
            assert await cancelling
        else:
            with pytest.raises(CallFailed, match="UNAVAILABLE"):
                await cancelling
