"""A whole cluster without Ray, for benchmarks and tests of moving: the real controller on this loop, instances as child
processes, direct frontends.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from shoal.bench.direct_frontend import DirectFrontend
from shoal.bench.plain_launcher import PlainLauncher
from shoal.bench.under_test import ENVIRONMENT, MODEL_NAME
from shoal.bench.workload import PromptMaker
from shoal.cluster.controller import Controller
from shoal.cluster.controller_service import ControllerService, serve
from shoal.cluster.member import InstanceState
from shoal.cluster.registry import MemoryRegistry
from shoal.instance.gate import AsyncGate
from shoal.proto.config import ClusterConfig, parse_config

START_S = 240.0
VOCABULARY = 256


class LocalCluster:
    """In a context: up when entered. `controller` may be replaced by a later one (`restart_controller`)."""

    def __init__(self, config: ClusterConfig, folder: Path, *, seed: int = 0) -> None:
        self.config, self.seed, self.token = config, seed, secrets.token_hex(16)
        config_json = config.model_dump_json(exclude={"keys", "secret"})
        self.launcher = PlainLauncher(config_json, self.token, folder, ENVIRONMENT)
        self.registry = MemoryRegistry()
        self.controller: Controller
        self.address = "127.0.0.1:0"
        self.stack = AsyncExitStack()
        self.frontends = 0

    async def __aenter__(self) -> LocalCluster:
        await self.start_controller()
        await self.until_ready(self.config.instances)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stack.aclose()
        await self.server.stop(None)
        await self.controller.close()

    async def start_controller(self) -> None:
        self.controller = Controller(
            self.config, token=self.token, run_id="run", launcher=self.launcher, registry=self.registry
        )
        await self.controller.run()
        self.server, self.address = await serve(ControllerService(self.controller), self.address, AsyncGate(self.token))

    async def lose_controller(self) -> None:
        """As if its process had died: nobody says good-bye."""
        await self.server.stop(None)
        await self.controller.lives.abandon()

    async def restart_controller(self) -> None:
        """The next one finds what is alive."""
        await self.lose_controller()
        await self.start_controller()

    async def until_ready(self, count: int, within_s: float = START_S) -> None:
        async with asyncio.timeout(within_s):
            while self.ready != count or len(self.controller.slots) != count:
                await asyncio.sleep(0.05)

    @property
    def ready(self) -> int:
        return sum(slot.state is InstanceState.READY for slot in self.controller.slots.values())

    async def frontend(self, policy: str, prompts: PromptMaker | None = None) -> DirectFrontend:
        self.frontends += 1
        made = prompts or PromptMaker(self.seed, VOCABULARY)
        frontend = DirectFrontend(f"f{self.frontends}", policy, self.address, self.token, made, self.seed)
        self.stack.push_async_callback(frontend.stop)
        await frontend.linked(self.ready)
        return frontend


def fake_config(instances: int, **sections: Any) -> ClusterConfig:
    """Keys as in the configuration; `engine` and `fake` are laid over what all these benchmarks share."""
    engine = {"kind": "fake", "max_model_len": 8192, **sections.pop("engine", {})}
    tree = {"model": "tiny", "served_model_name": MODEL_NAME, "instances": instances, "spares": 0, "engine": engine}
    return parse_config({**tree, **sections})


__all__ = ["VOCABULARY", "LocalCluster", "fake_config"]
