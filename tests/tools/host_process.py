"""One instance in a process of its own, to be killed and frozen."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing.connection import Connection

from shoal.bench.instance_host import host
from shoal.bench.processes import process_state
from shoal.proto import failpoints
from shoal.proto.config import ClusterConfig
from shoal.proto.v1 import controller_pb2 as cpb
from tests.tools.mini_cluster import ENGINE, FAKE, TOKEN, eventually

START_S = 120.0
GONE = ("", "Z", "X")


def host_config(**fake: float) -> ClusterConfig:
    return ClusterConfig(engine=ENGINE, fake=FAKE.model_copy(update=fake))


class Host:
    """One instance in a process of its own."""

    def __init__(
        self, number: int, incarnation: int = 1, *, config: ClusterConfig, failpoints: str = "", token: str = TOKEN
    ) -> None:
        self.number, self.name, self.incarnation = number, f"i{number}", incarnation
        self.config, self.failpoints, self.token = config, failpoints, token

    async def start(self) -> Host:
        arguments = [self.config.model_dump_json(exclude={"keys", "secret"}), self.token, "1", str(self.number)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "shoal.bench.instance_host", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "SHOAL_FAILPOINTS": self.failpoints},
        )
        line = await asyncio.wait_for(asyncio.to_thread(self.process.stdout.readline), START_S)
        self.address = json.loads(line)["instances"][0]["address"]
        return self

    async def fault(self, number: int) -> None:
        """SIGKILL or SIGSTOP; returns when /proc proves it."""
        os.kill(self.process.pid, number)
        wanted = GONE if number is signal.SIGKILL else ("T",)
        await eventually(lambda: process_state(self.process.pid) in wanted)

    def end(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self.process.stdin.close()
        self.process.stdout.close()

    def member(self) -> cpb.Member:
        return cpb.Member(
            id=self.name,
            address=self.address,
            state="ready",
            role="mixed",
            pid=self.process.pid,
            incarnation=self.incarnation,
        )


class ForkedHost(Host):
    """Forked from one that has imported vLLM already, which takes longer than all else."""

    async def start(self) -> ForkedHost:
        forks = multiprocessing.get_context("forkserver")
        forks.set_forkserver_preload(["shoal.instance.vllm_engine"])
        arguments = [self.config.model_dump_json(exclude={"keys", "secret"}), self.token, 1, self.number]
        reads, self.writes = forks.Pipe(duplex=False)
        self.reads, writes = forks.Pipe(duplex=False)
        self.process = forks.Process(target=_host, args=(arguments, self.failpoints, reads, writes), daemon=True)
        self.process.start()
        reads.close()
        writes.close()
        line = await asyncio.wait_for(asyncio.to_thread(_line, self.reads), START_S)
        self.address = json.loads(line)["instances"][0]["address"]
        return self

    def end(self) -> None:
        self.process.kill()
        self.process.join(10)
        self.writes.close()
        self.reads.close()


def _host(arguments: list[str | int], armed: str, reads: Connection, writes: Connection) -> None:
    sys.stdin, sys.stdout = os.fdopen(os.dup(reads.fileno())), os.fdopen(os.dup(writes.fileno()), "w")
    if armed:
        failpoints.arm(*armed.split("="))
    asyncio.run(host(*arguments))


def _line(reads: Connection) -> str:
    with os.fdopen(os.dup(reads.fileno())) as lines:
        return lines.readline()


__all__ = ["GONE", "ForkedHost", "Host", "host_config"]
