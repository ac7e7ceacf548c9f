"""What the fault campaign runs against: the real controller on this loop, each instance a process behind a fault proxy,
each frontend a process of its own, and the product's own client, which resumes at another frontend what a lost one had.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any

import aiohttp

from shoal.bench.fault_proxy import FaultProxy
from shoal.bench.hosts import Host
from shoal.bench.http_client import settle
from shoal.bench.local_cluster import START_S, LocalCluster
from shoal.bench.plain_launcher import PlainProcess
from shoal.bench.processes import free_port
from shoal.bench.record import Record
from shoal.bench.under_test import ENVIRONMENT, MODEL_NAME
from shoal.bench.workload import PromptMaker
from shoal.cluster.client.aio import AsyncShoalClient
from shoal.cluster.client.errors import CallFailed
from shoal.cluster.member import InstanceState
from shoal.proto.config import ClusterConfig

WORD_S = 20.0
LINK_ENDS = "shoal_frontend_link_ends_total"


class FrontendLife:
    """One place for a frontend: its ports stay, its processes come and go, each under a new name."""

    def __init__(self, cluster: ChaosCluster, number: int) -> None:
        self.cluster, self.number, self.lives = cluster, number, 0
        ports = {"http_port": free_port(), "grpc_port": free_port()}
        self.config = cluster.config.model_copy(update=ports)
        self.host: Host
        self.said: dict[str, Any] = {}

    @property
    def grpc(self) -> str:
        return f"{self.config.host}:{self.config.grpc_port}"

    async def start(self) -> None:
        """Returns once it is linked to all instances."""
        self.lives += 1
        name, cluster = f"f{self.number}-{self.lives}", self.cluster
        config = self.config.model_dump_json(exclude={"secret"})
        words = [config, cluster.token, cluster.address, "", name]
        log = cluster.folder / f"{name}.log"
        self.host = await Host("shoal.bench.frontend_host", words, log, ENVIRONMENT).__aenter__()
        self.said = await self.host.said(START_S)
        async with asyncio.timeout(START_S):
            while (await self.host.ask("links", WORD_S))["links"] < cluster.config.instances:
                await asyncio.sleep(0.1)

    async def end(self) -> None:
        await self.host.__aexit__(None, None, None)


class ChaosCluster(LocalCluster):
    """In a context. Everything is up again whenever `whole` returns."""

    def __init__(self, config: ClusterConfig, folder: Path, *, frontends: int, seed: int) -> None:
        super().__init__(config, folder, seed=seed)
        self.folder, self.rng = folder, Random(seed)
        self.launcher.through = self._through
        self.proxies: dict[str, FaultProxy] = {}
        self.front = [FrontendLife(self, number) for number in range(frontends)]

    async def __aenter__(self) -> ChaosCluster:
        await super().__aenter__()
        for one in self.front:
            self.stack.push_async_callback(one.end)
        await asyncio.gather(*(one.start() for one in self.front))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, error, trace)
        for proxy in self.proxies.values():
            await proxy.__aexit__(None, None, None)

    async def _through(self, instance_id: str, address: str) -> str:
        """A new life has a new proxy."""
        if (former := self.proxies.pop(instance_id, None)) is not None:
            await former.__aexit__(None, None, None)
        host, _, port = address.rpartition(":")
        proxy = FaultProxy(host, int(port), seed=self.rng.getrandbits(32))
        self.proxies[instance_id] = await proxy.__aenter__()
        return f"{host}:{proxy.port}"

    @property
    def instances(self) -> dict[str, PlainProcess]:
        """Those that serve, by id."""
        return {one.who.instance_id: one for one in self.launcher.processes if one.who.served is not None}

    async def whole(self, within_s: float) -> list[str]:
        """What is not up again in time. An instance that was ended too often for the controller's taste is revived, as
        a person would do, who knows why.
        """
        end_s = time.monotonic() + within_s
        wanted = self.config.instances
        while time.monotonic() < end_s:
            self.controller.revive()
            links = [(await one.host.ask("links", WORD_S))["links"] for one in self.front]
            if self.ready == wanted and links == [wanted] * len(self.front):
                return []
            await asyncio.sleep(0.1)
        return [f"P3 after {within_s:.0f} s: {self.controller.states}, links of frontends {links}"]

    def status(self) -> dict[str, Any]:
        """As `shoal status --json` says it."""
        words = ("free_blocks", "total_blocks", "running", "waiting")
        ready = [name for name, slot in self.controller.slots.items() if slot.state is InstanceState.READY]
        loads = {name: self.controller.live[name].load for name in ready}
        rows = [{"id": n, "state": "ready", **{w: getattr(one, w) for w in words}} for n, one in loads.items()]
        return {"instances": rows}

    async def link_ends(self) -> int:
        """Streams to instances that the frontends saw end against their will."""
        total = 0.0
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as http:
            for one in self.front:
                async with http.get(one.said["metrics"]) as reply:
                    lines = (await reply.text()).splitlines()
                total += sum(
                    float(line.rpartition(" ")[2])
                    for line in lines
                    if line.startswith(LINK_ENDS) and 'why="closed"' not in line
                )
        return round(total)

    def pids(self) -> dict[str, int]:
        instances = {name: one.pid for name, one in self.instances.items()}
        return instances | {f"f{one.number}": one.host.pid for one in self.front}


class ResumingClient:
    """The product's client behind the driver's `Client`."""

    def __init__(self, addresses: list[str], key: str, prompts: PromptMaker, timeout_s: float) -> None:
        self.client = AsyncShoalClient(addresses, key=key)
        self.prompts, self.timeout_s = prompts, timeout_s

    async def __aenter__(self) -> ResumingClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.client.close()

    async def run(self, record: Record) -> None:
        record.sent_s = time.perf_counter()
        stream = self.client.generate(
            token_ids=self.prompts.prompt(record.request),
            model=MODEL_NAME,
            max_tokens=record.request.output_tokens,
            temperature=0.0,
            ignore_eos=True,
        )
        try:
            async with asyncio.timeout(self.timeout_s), stream:
                async for reply in stream:
                    if reply.token_ids:
                        record.add_chunk(time.perf_counter(), len(reply.token_ids))
                        record.token_ids.extend(reply.token_ids)
                    record.finish_reason = reply.finish_reason or record.finish_reason
                    record.instance = reply.instance or record.instance
                    record.cached_tokens = reply.usage.cached_tokens or record.cached_tokens
            settle(record, bool(record.finish_reason))
        except TimeoutError:
            record.fail(time.perf_counter(), "timeout", f"{record.output_tokens} tokens in {self.timeout_s} s")
        except CallFailed as exc:
            record.fail(time.perf_counter(), f"grpc_{exc.code}", exc.message)


__all__ = ["ChaosCluster", "FrontendLife", "ResumingClient"]
