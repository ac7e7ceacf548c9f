"""A process sends its spans to the collector that its configuration names, and to nobody else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from shoal.instance.trace_start import start_tracing
from shoal.proto import tracing
from shoal.proto.config import TracingConfig
from shoal.proto.errors import StartFailed


class Collector(HTTPServer):
    """Takes OTLP over HTTP. `came`: what."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Taker)
        self.came: list[ExportTraceServiceRequest] = []


class Taker(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.came.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    one = Collector()
    thread = Thread(target=one.serve_forever, args=(0.02,))
    thread.start()
    yield one
    one.shutdown()
    thread.join()
    one.server_close()
    tracing.send_to(None)


def test_spans_reach_the_collector_by_the_end_at_the_latest(collector: Collector) -> None:
    end = start_tracing(TracingConfig(endpoint=f"http://127.0.0.1:{collector.server_port}/v1/traces"), "instance", "i7")
    tracing.begin("serve", root=True, blocks=3).end()
    end()
    (resource,) = [one for request in collector.came for one in request.resource_spans]
    facts = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert (facts["service.name"], facts["service.instance.id"]) == ("shoal-instance", "i7")
    (span,) = resource.scope_spans[0].spans
    assert (span.name, [one.key for one in span.attributes]) == ("serve", ["shoal.blocks"])


def test_without_a_collector_nothing_is_recorded() -> None:
    start_tracing(TracingConfig(), "instance", "i7")()
    assert not tracing.is_on()


def test_a_collector_without_the_extra_is_an_error_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shoal.instance.otel", None)
    with pytest.raises(StartFailed, match="needs the extra 'tracing'"):
        start_tracing(TracingConfig(endpoint="http://127.0.0.1:1"), "instance", "i7")
