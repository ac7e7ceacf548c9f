import asyncio

import pytest

from shoal.bench.http_client import HttpClient, HttpTarget, first_model
from shoal.bench.record import End, Record
from shoal.bench.workload import LoadRequest, PromptMaker, RequestClass
from shoal.proto.errors import Unavailable

PROMPTS = PromptMaker(seed=0, vocabulary=100)


async def ask(
    server, model="whole", output_tokens=8, hang_up_after=None, url=None, kind=RequestClass(), **options
) -> Record:
    target = HttpTarget(url or server.url, model, **options)
    record = Record(LoadRequest(0, 0.0, 5, output_tokens, hang_up_after=hang_up_after, kind=kind))
    async with HttpClient(target, PROMPTS) as client:
        await client.run(record)
    return record


async def test_whole_answer_has_every_token_and_its_time(server):
    record = await ask(server)
    assert record.end is End.COMPLETED
    assert (record.output_tokens, record.prompt_tokens, record.instance) == (8, 5, "i0")
    assert record.sent_s <= record.chunk_s[0] <= record.chunk_s[-1] <= record.finished_s


async def test_tokens_are_counted_by_usage_not_by_chunk(server):
    server.per_chunk = 3
    record = await ask(server)
    assert record.chunk_tokens == [3, 3, 2]


async def test_without_running_usage_a_chunk_is_a_token(server):
    server.usage = False
    assert (await ask(server)).output_tokens == 8


async def test_token_ids_are_kept_where_asked_for(server):
    record = await ask(server, extra={"return_token_ids": True})
    assert record.token_ids == list(range(8))


async def test_chat_is_read_alike(server):
    record = await ask(server, chat=True)
    assert (record.end, record.output_tokens) == (End.COMPLETED, 8)


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("http_400", "http_400"),
        ("http_503", "http_503"),
        ("cut", "disconnect"),
        ("error", "stream_error"),
        ("garbage", "bad_reply"),
        ("short", "truncated"),
        ("endless", "truncated"),
    ],
)
async def test_each_way_to_fail_has_its_kind(server, model, kind):
    record = await ask(server, model)
    assert (record.end, record.error_kind) == (End.FAILED, kind)


async def test_nobody_listens(server):
    assert (await ask(server, url="http://127.0.0.1:1")).error_kind == "connect"


async def test_request_timeout(server):
    assert (await ask(server, "mute", request_timeout_s=0.1)).error_kind == "timeout"


async def test_retry_after_is_obeyed_only_if_asked(server):
    server.refusals = 1
    assert (await ask(server)).error_kind == "http_429"
    server.refusals = 2
    record = await ask(server, max_retries=2)
    assert (record.end, record.retries) == (End.COMPLETED, 2)


@pytest.mark.parametrize("tokens", [0, 3])
async def test_hanging_up_closes_the_connection(server, tokens):
    server.token_s = 0.01
    record = await ask(server, output_tokens=1000, hang_up_after=tokens)
    assert (record.end, record.output_tokens) == (End.HUNG_UP, tokens)
    for _ in range(200):
        if server.left:
            break
        await asyncio.sleep(0.01)
    assert server.left == 1


async def test_priority_is_sent_only_where_it_is_not_the_default(server):
    await ask(server)
    await ask(server, kind=RequestClass(priority=3))
    assert [body.get("priority") for body in server.bodies] == [None, 3]


async def test_first_model(server):
    assert await first_model(server.url + "/v1", None) == "whole"
    with pytest.raises(Unavailable):
        await first_model("http://127.0.0.1:1", None)
