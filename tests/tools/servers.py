"""Real servers for tests, each on free ports of the loopback, with its data in a folder of the test, and gone after the
`with`.

Where the program is not installed the test is skipped by name; with SHOAL_REQUIRE_SERVERS=1 (as in CI) it fails
instead.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

START_S = 30.0
STOP_S = 5.0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def need_program(name: str) -> str:
    """Its path; else this test is skipped, or fails where servers are required."""
    if path := shutil.which(name):
        return path
    if os.environ.get("SHOAL_REQUIRE_SERVERS") == "1":
        pytest.fail(f"{name} is not installed, and SHOAL_REQUIRE_SERVERS=1")
    pytest.skip(f"{name} is not installed")


class Server:
    """One child process that is up when it answers on `port`. `kill`, `freeze` and `thaw` are for fault tests."""

    program = ""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def answers(self) -> bool:
        raise NotImplementedError

    def __enter__(self) -> Any:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        path = need_program(self.program)
        log = self.folder / f"{self.program}.log"
        with log.open("ab") as out:
            self.process = subprocess.Popen([path, *self.command()], stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        end_s = time.monotonic() + START_S
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > end_s:
                self.stop()
                pytest.fail(f"{self.program} did not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        if self.process is None:
            return
        self.process.send_signal(signal.SIGCONT)  # a frozen one hears nothing else
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self.process = None

    def kill(self) -> None:
        self._send(signal.SIGKILL)
        assert self.process is not None
        self.process.wait(STOP_S)

    def freeze(self) -> None:
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        self._send(signal.SIGCONT)

    def _send(self, number: int) -> None:
        assert self.process is not None, "not started"
        self.process.send_signal(number)


class RedisServer(Server):
    """Memory only: what it held is gone with it."""

    program = "redis-server"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        return [
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)),
            *("--save", "", "--appendonly", "no"),
        ]

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as sock:
                sock.sendall(b"PING\r\n")
                return sock.recv(16).startswith(b"+PONG")
        except OSError:
            return False


class Prometheus(Server):
    """Scrapes `targets` (host:port, at /metrics) every second."""

    program = "prometheus"

    def __init__(self, folder: Path, targets: list[str], port: int | None = None) -> None:
        super().__init__(folder, port)
        scrape = {"job_name": "shoal", "static_configs": [{"targets": targets}]}
        config = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": [scrape]}
        (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML

    def command(self) -> list[str]:
        return [
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]

    def answers(self) -> bool:
        try:
            return self._get("/-/ready") is not None
        except OSError:
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The instant vector: [{"metric": {...}, "value": [time, "text"]}]."""
        reply = json.loads(self._get("/api/v1/query?" + urllib.parse.urlencode({"query": expression})))
        result: list[dict[str, Any]] = reply["data"]["result"]
        return result

    def series(self, expression: str, start_s: float, end_s: float) -> list[list[float]]:
        """Every series' values between the two times, one a second; a gap is a gap. Raises where it is not PromQL."""
        asked = {"query": expression, "start": start_s, "end": end_s, "step": 1}
        reply = json.loads(self._get("/api/v1/query_range?" + urllib.parse.urlencode(asked)))
        return [[float(value) for _, value in one["values"]] for one in reply["data"]["result"]]

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as reply:
            body: bytes = reply.read()
            return body


__all__ = ["Prometheus", "RedisServer", "Server", "free_port", "need_program"]
