"""The two things that benchmarks start: a Shoal cluster, through its command line only, and a plain vLLM server.

Everything that this folder assumes of `shoal up`, `shoal status --json` and `shoal down` stands in ShoalUnderTest.
Its cluster has a run directory of its own, so that it never meets one that the user runs.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import msgspec
import psutil
import yaml

from shoal.bench.processes import Child, free_port
from shoal.instance.tiny_model import ensure_tiny_model
from shoal.instance.vllm_flags import vllm_flags
from shoal.proto.config import ClusterConfig, parse_config
from shoal.proto.errors import ShoalError, StartFailed, Unavailable

READY = "ready"
MODEL_NAME = "bench"
POLL_S = 0.5
STATUS_TIMEOUT_S = 30.0
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "RAY_worker_niceness": "0",  # Ray's default, 15, lets any other process starve its workers
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "OMP_NUM_THREADS": "1",
}


class InstanceStatus(msgspec.Struct, frozen=True):
    id: str
    state: str
    pid: int = 0
    running: int = 0
    waiting: int = 0
    free_blocks: int = 0
    total_blocks: int = 0
    step_ms: float = 0.0
    metrics: str = ""


class FrontendStatus(msgspec.Struct, frozen=True):
    id: str
    http: str = ""
    grpc: str = ""
    pid: int = 0
    state: str = ""
    metrics: str = ""

    @property
    def url(self) -> str:
        return self.http if "://" in self.http else f"http://{self.http}"


class Status(msgspec.Struct, frozen=True):
    instances: list[InstanceStatus] = []
    frontends: list[FrontendStatus] = []
    metrics: str = ""

    def ready(self) -> list[InstanceStatus]:
        return [instance for instance in self.instances if instance.state == READY]

    def is_up(self, instances: int) -> bool:
        return len(self.ready()) >= instances and any(frontend.http for frontend in self.frontends)


def bench_config(model: str, instances: int, *, engine: str = "vllm") -> ClusterConfig:
    """The cluster that a benchmark starts; the plain server gets the same engine flags from it."""
    return parse_config(
        {
            "model": str(ensure_tiny_model()) if model == "tiny" else model,
            "served_model_name": MODEL_NAME,
            "instances": instances,
            "http_port": free_port(),
            "grpc_port": free_port(),
            "engine": {"kind": engine, "dtype": "float32", "max_model_len": 8192},
        }
    )


class ShoalUnderTest:
    """A cluster in a context. `start` returns at once, `wait_up` when it serves."""

    def __init__(self, config: ClusterConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.program = str(Path(sys.executable).parent / "shoal")
        runtime = folder / "run"
        runtime.mkdir(mode=0o700)
        self.environment = {**ENVIRONMENT, "XDG_RUNTIME_DIR": str(runtime)}
        path = folder / "cluster.yaml"
        path.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude={"secret"}, exclude_defaults=True)))
        self.child = Child(
            "shoal up", [self.program, "up", "--config", str(path)], folder / "shoal.log", self.environment
        )

    def __enter__(self) -> ShoalUnderTest:
        self.child.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(subprocess.SubprocessError, OSError):
            self.down()
        self.child.stop()

    def down(self) -> int:
        """The exit status of `shoal down`."""
        return self._command("down", timeout_s=60).returncode

    def wait_up(self, timeout_s: float) -> Status:
        status = Status()

        def is_up() -> bool:
            nonlocal status
            if self.child.exit_code() not in (None, 0):
                raise self.child.fail("could not start")
            with suppress(ShoalError):
                status = self.status()
            return status.is_up(self.config.instances)

        _wait(is_up, timeout_s, lambda: self.child.fail(f"not up after {timeout_s:.0f} s"))
        return status

    def status(self) -> Status:
        """Raises Unavailable."""
        try:
            done = self._command("status", "--json", timeout_s=STATUS_TIMEOUT_S)
            return msgspec.json.decode(done.stdout.strip().splitlines()[-1], type=Status)
        except (subprocess.SubprocessError, OSError, IndexError, msgspec.MsgspecError) as exc:
            raise Unavailable(f"shoal status: {type(exc).__name__}: {exc}") from None

    async def status_soon(self) -> Status:
        return await asyncio.to_thread(self.status)

    async def revive_soon(self, instance: str) -> None:
        """Start a quarantined instance again."""
        await asyncio.to_thread(self._command, "revive", instance, timeout_s=STATUS_TIMEOUT_S)

    def _command(self, *words: str, timeout_s: float) -> subprocess.CompletedProcess[bytes]:
        command = [self.program, *words]
        environment = self.child.environment
        return subprocess.run(command, env=environment, capture_output=True, timeout=timeout_s, check=False)

    def pids(self) -> set[int]:
        return self.child.pids()


class PlainServer:
    """`python -m vllm.entrypoints.openai.api_server` with the engine flags of a cluster's configuration."""

    def __init__(self, config: ClusterConfig, folder: Path) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        flags = vllm_flags(config, model_path=config.model, on_cpu=not Path("/dev/nvidiactl").exists())
        argv = [
            sys.executable,
            "-m",
            "vllm.entrypoints.openai.api_server",
            *flags,
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ]
        environment = {
            **ENVIRONMENT,
            "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        }  # its default; our own processes may have unset it
        self.child = Child("plain vLLM", argv, folder / "plain.log", environment)

    def __enter__(self) -> PlainServer:
        self.child.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.child.stop()

    def wait_up(self, timeout_s: float) -> None:
        def is_up() -> bool:
            if (code := self.child.exit_code()) is not None:
                raise self.child.fail(f"ended with code {code}")
            return _answers(f"{self.url}/v1/models")

        _wait(is_up, timeout_s, lambda: self.child.fail(f"not up after {timeout_s:.0f} s"))

    def pids(self) -> set[int]:
        return self.child.pids()

    def engine_pids(self, *, workers_only: bool) -> set[int]:
        """By the titles that vLLM gives its processes: workers compute, the engine core steers (or computes itself)."""
        titles = {pid: _title(pid) for pid in self.pids()}
        workers = {pid for pid, title in titles.items() if "VLLM::Worker" in title}
        return workers if workers_only and workers else {pid for pid, title in titles.items() if "VLLM::" in title}


def _title(pid: int) -> str:
    with suppress(psutil.Error):
        return " ".join(psutil.Process(pid).cmdline())
    return ""


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return bool(reply.status == 200)
    except (OSError, urllib.error.URLError, ValueError):
        return False


def _wait(done: Callable[[], bool], timeout_s: float, failure: Callable[[], StartFailed]) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline_s:
            raise failure()
        time.sleep(POLL_S)


__all__ = [
    "MODEL_NAME",
    "FrontendStatus",
    "InstanceStatus",
    "PlainServer",
    "ShoalUnderTest",
    "Status",
    "bench_config",
]
