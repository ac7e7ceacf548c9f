"""The helpers start real servers, hurt them where asked, and leave no process."""

import http.server
import threading
import time

import pytest
import redis

from shoal.bench.oracle import Resources, check_resources
from tests.tools.servers import Prometheus, RedisServer, need_program

pytestmark = pytest.mark.servers


def test_a_redis_serves_freezes_thaws_and_is_gone_after(tmp_path):
    before = Resources.of()
    with RedisServer(tmp_path) as server:
        client = redis.Redis(port=server.port, socket_timeout=0.3, retry=None)
        client.set("k", "v")
        assert client.get("k") == b"v"
        server.freeze()
        with pytest.raises(redis.exceptions.TimeoutError):
            client.get("k")
        server.thaw()
        client.close()
        again = redis.Redis(port=server.port, socket_timeout=10)
        assert again.get("k") == b"v"
        again.close()
    assert check_resources(before, Resources.of()) == []


def test_a_killed_redis_comes_back_empty_on_the_same_port(tmp_path):
    with RedisServer(tmp_path) as server:
        with redis.Redis(port=server.port) as client:
            client.set("k", "v")
        server.kill()
        server.start()
        with redis.Redis(port=server.port) as client:
            assert client.get("k") is None


class Metrics(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"# TYPE answer gauge\nanswer 42\n"
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_a_prometheus_scrapes_and_answers_queries(tmp_path):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metrics) as target:
        threading.Thread(target=target.serve_forever).start()
        try:
            with Prometheus(tmp_path, [f"127.0.0.1:{target.server_port}"]) as server:
                end_s = time.monotonic() + 30
                while not (found := server.query("answer")) and time.monotonic() < end_s:
                    time.sleep(0.1)
        finally:
            target.shutdown()
    assert [row["value"][1] for row in found] == ["42"]


def test_an_absent_program_skips_by_name_and_fails_where_servers_are_required(monkeypatch):
    monkeypatch.delenv("SHOAL_REQUIRE_SERVERS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no-such-server is not installed"):
        need_program("no-such-server")
    monkeypatch.setenv("SHOAL_REQUIRE_SERVERS", "1")
    with pytest.raises(pytest.fail.Exception, match="no-such-server is not installed"):
        need_program("no-such-server")
