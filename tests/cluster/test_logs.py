"""What stands in the logs, and what never does."""

import asyncio
import json
import logging

import pytest

from shoal.cluster.journal import Outcome, Ticket
from shoal.cluster.logs import JsonLines, log_end
from shoal.cluster.request_context import RequestContext, open_request
from shoal.proto import codec
from shoal.proto.errors import Unavailable
from shoal.router.contract import RouteRequest
from tests.tools.mini_cluster import MiniCluster, eventually

CONTEXT = RequestContext("client-id", "ada", instance="i1")


def line_of(record: logging.LogRecord) -> dict[str, object]:
    text = JsonLines().format(record)
    assert "\n" not in text
    line: dict[str, object] = json.loads(text)
    return line


def record(message: str, *values: object) -> logging.LogRecord:
    return logging.LogRecord("shoal.x", logging.WARNING, __file__, 1, message, values, None)


def test_a_line_names_the_request_that_it_was_written_for() -> None:
    assert "request_id" not in line_of(record("hello %d", 1))
    with open_request(CONTEXT):
        line = line_of(record("hello %d\nand more", 1))
    assert (line["request_id"], line["tenant"], line["message"]) == ("client-id", "ada", "hello 1\nand more")
    assert (line["level"], line["logger"]) == ("warning", "shoal.x")


def test_an_ended_request_is_one_line_with_counts_and_without_its_words(caplog: pytest.LogCaptureFixture) -> None:
    route = RouteRequest("engine-id", 3, 9, tenant="ada", arrived_s=5.0)
    ticket = Ticket(route, b"the prompt's canary", b"fp", delivered=[424242, 424243])
    failed = RequestContext("client-id", "ada", instance="i1", error=Unavailable("canary"))
    with caplog.at_level(logging.INFO, "shoal.requests"):
        log_end(ticket, failed, Outcome.UNAVAILABLE, 7.5)
    [one] = caplog.records
    line = line_of(one)
    expected = {
        "request_id": "client-id",
        "engine_request_id": "engine-id",
        "instance": "i1",
        "outcome": "unavailable",
        "prompt_tokens": 3,
        "output_tokens": 2,
        "moves": 0,
        "took_s": 2.5,
        "error": "Unavailable",
    }
    assert expected.items() <= line.items()
    assert "canary" not in json.dumps(line) and "42424" not in json.dumps(line)


async def test_whatever_happens_to_a_request_no_log_line_holds_its_words(caplog: pytest.LogCaptureFixture) -> None:
    """Served, moved to another instance by a crash, refused, expired: at every level, of every logger."""
    canary = [201, 17, 202, 18, 203, 19]
    forms = (str(canary)[1:-1], bytes(canary), codec.encode(canary), str(canary[:3])[1:-1])
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, "shoal.requests"):
        async with MiniCluster(2) as cluster:
            frontend = await cluster.frontend()
            assert (await frontend.run("served", canary, 8)).error is None
            moved = asyncio.create_task(frontend.run("moved", canary, 120))
            await eventually(lambda: "moved" in frontend.replies)
            await frontend.replies["moved"].wait_tokens(5)
            await cluster.instances[frontend.replies["moved"].context.instance].kill()
            assert len((await moved).tokens) == 120
            assert (await frontend.run("refused", canary, 8, lora="nowhere")).error is not None
            for instance in cluster.instances.values():
                await instance.kill()
            assert (await frontend.run("expired", canary, 8, deadline_s=0.1)).error is not None
    lines = [JsonLines().format(record) for record in caplog.records]
    said = "\n".join(lines)
    assert said.count(" ended: ") == 4 and "moved, 0 given up" in said, "the log was listened to"
    assert not [form for form in forms if str(form) in said or repr(form) in said]
