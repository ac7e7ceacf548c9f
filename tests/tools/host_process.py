"""One fake instance in a process of its own, to be killed and frozen."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys

from shoal.bench.processes import process_state
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


__all__ = ["GONE", "Host", "host_config"]
