"""Where a metrics page listens."""

import urllib.request
from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry, Gauge

from shoal.instance import metrics_page
from shoal.instance.metrics_page import serve_page
from tests.tools.servers import free_port


def test_the_next_process_takes_the_next_free_port_and_a_left_one_is_used_again() -> None:
    first = free_port()
    with ExitStack() as stack:

        def serve() -> str:
            url, server = serve_page(CollectorRegistry(), "127.0.0.1", first)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            return url

        one, two = serve(), serve()
        ports = [int(url.split(":")[2].split("/")[0]) for url in (one, two)]
        assert ports[0] >= first and ports[1] > ports[0]
        with urllib.request.urlopen(two, timeout=5) as reply:
            assert reply.status == 200
        stack.pop_all().close()
        assert serve() == one


def test_names_with_a_colon_stay_as_vllm_writes_them_whatever_prometheus_asks_for() -> None:
    registry = CollectorRegistry()
    Gauge("vllm:num_requests_running", "", registry=registry).set(3)
    url, server = serve_page(registry, "127.0.0.1", 0)
    try:
        accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept}), timeout=5) as reply:
            assert "\nvllm:num_requests_running 3.0" in reply.read().decode()
            assert reply.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    finally:
        server.shutdown()
        server.server_close()


def test_no_free_port_is_an_error_that_names_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_page, "PAGES", 1)
    taken = free_port()
    _url, server = serve_page(CollectorRegistry(), "127.0.0.1", taken)
    try:
        with pytest.raises(OSError, match="metrics_port: "):
            serve_page(CollectorRegistry(), "127.0.0.1", taken)
    finally:
        server.shutdown()
        server.server_close()
