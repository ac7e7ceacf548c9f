"""The console over a cluster without Ray and vLLM: the real controller, instances with fake engines as child processes,
a direct frontend, and the console's own listener.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from shoal.bench.direct_frontend import DirectFrontend
from shoal.bench.local_cluster import VOCABULARY, LocalCluster, fake_config
from shoal.bench.record import Record
from shoal.bench.workload import LoadRequest, PromptMaker
from shoal.cluster.console.acts import Acts
from shoal.cluster.console.app import Console
from shoal.cluster.console.gallery import Gallery
from shoal.cluster.http_edge import Receive, Scope, Send, send_error
from shoal.cluster.inner_service import InnerServer
from shoal.proto.config import MigrationConfig
from shoal.proto.errors import NotFound
from shoal.proto.v1 import controller_pb2 as cpb
from tests.tools.servers import free_port


@dataclass
class Stage:
    cluster: LocalCluster
    frontend: DirectFrontend
    gallery: Gallery
    url: str
    streams: list[asyncio.Task[None]] = field(default_factory=list)

    def begin(self, number: int, prompt: int, output: int) -> None:
        """One request more, until it or the stage ends."""
        run = self.frontend.run(Record(LoadRequest(number, 0.0, prompt, output)))
        self.streams.append(asyncio.create_task(run))

    async def end(self) -> None:
        for stream in self.streams:
            stream.cancel()
        await asyncio.gather(*self.streams, return_exceptions=True)


async def nothing_else(scope: Scope, receive: Receive, send: Send) -> None:
    await send_error(send, NotFound("no such route"))


@contextlib.asynccontextmanager
async def stage(folder: Path, instances: int = 2, *, needs_key: bool = False, **config: Any) -> AsyncIterator[Stage]:
    """Nothing moves by itself."""
    async with LocalCluster(fake_config(instances, **config), folder) as cluster:
        cluster.controller.planner.rules = MigrationConfig(enabled=False)
        frontend = await cluster.frontend("prefix_least_work", PromptMaker(0, VOCABULARY))
        stories = frontend.dispatcher.ledgers.stories
        inner = await InnerServer.start(stories, frontend.dispatcher.pilot, "127.0.0.1", cluster.token)
        gallery = Gallery(lambda: cluster.address, cluster.token, stories)
        acts = Acts(lambda: cluster.address)
        app = Console(nothing_else, gallery, acts, cluster.token, needs_key=needs_key)
        port = free_port()
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", lifespan="off"))
        server.install_signal_handlers = lambda: None
        server.capture_signals = contextlib.nullcontext
        serving = asyncio.create_task(server.serve())
        frontend.watch.frontend.MergeFrom(cpb.FrontendInfo(inner=inner.address))
        await cluster.restart_controller()  # so that it hears where this frontend answers
        await cluster.until_ready(instances)
        cluster.controller.planner.rules = MigrationConfig(enabled=False)
        one = Stage(cluster, frontend, gallery, f"http://127.0.0.1:{port}/console")
        try:
            yield one
        finally:
            await one.end()
            server.should_exit = server.force_exit = True
            await gallery.close()
            await serving
            await inner.stop()


__all__ = ["Stage", "stage"]
