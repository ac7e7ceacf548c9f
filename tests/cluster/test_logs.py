"""What stands in the logs, and what never does."""

import json
import logging

import pytest

from shoal.cluster.journal import Outcome, Ticket
from shoal.cluster.logs import JsonLines, log_end
from shoal.cluster.request_context import RequestContext, open_request
from shoal.proto.errors import Unavailable
from shoal.router.contract import RouteRequest

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
