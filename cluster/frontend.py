"""One frontend, put together: vLLM's application over our engine client, the HTTP and gRPC listeners, metrics,
membership.

Knows nothing of Ray; `frontend_deployment` runs it inside Ray Serve. Everything here lives on the event loop that calls
`start`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import uvicorn

from shoal.cluster import open_files
from shoal.cluster.console.acts import Acts
from shoal.cluster.console.app import Console
from shoal.cluster.console.gallery import Gallery
from shoal.cluster.dispatcher import Dispatcher
from shoal.cluster.engine_client import ClusterClient
from shoal.cluster.frontend_metrics import FrontendRegistry
from shoal.cluster.frontend_seam import VLLM_VERSION, app_over, block_hasher, hash_seed, llm_over, parse_flags
from shoal.cluster.grpc_api.ports import Models
from shoal.cluster.grpc_api.server import GrpcServer, start_server
from shoal.cluster.grpc_api.servicer import InferenceServicer
from shoal.cluster.grpc_api.vllm_port import VllmEngine
from shoal.cluster.http_edge import Application, HttpEdge
from shoal.cluster.http_protocol import guarded
from shoal.cluster.inner_service import InnerServer
from shoal.cluster.logs import requests
from shoal.cluster.membership_watch import MembershipWatch
from shoal.cluster.tenants import KeyFile, Tenants
from shoal.cluster.trace_edges import TracedHttp
from shoal.instance.engine_factory import resolve_model
from shoal.instance.inner_tls import InnerTls, server_credentials
from shoal.instance.metrics_page import serve_page
from shoal.instance.trace_start import start_tracing
from shoal.instance.vllm_flags import vllm_flags
from shoal.proto import tracing
from shoal.proto.config import ClusterConfig
from shoal.proto.errors import StartFailed
from shoal.proto.v1 import controller_pb2 as cpb
from shoal.router.profile import build_policy
from shoal.router.tenant_limits import TenantLimits

IDLE_S = 300
GRACE_S = 1.0
RELOAD_S = 2.0


@dataclass(frozen=True, slots=True)
class FrontendPlan:
    """What a frontend must be told. `controller` gives the controller's present address, and may block."""

    config: ClusterConfig
    frontend_id: str
    token: str
    secret: str
    controller: Callable[[], str]
    admin: Callable[[], str] | None = None  # where people's acts go, where that is another port


class Frontend:
    """Owns its listeners and tasks from `start` to `stop`."""

    def __init__(self, plan: FrontendPlan) -> None:
        self.plan = plan
        self.http: uvicorn.Server | None = None
        self.tasks: list[asyncio.Task[Any]] = []
        self.repeating: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Raises StartFailed with one line."""
        plan, config = self.plan, self.plan.config
        self.end_tracing = start_tracing(config.tracing, "frontend", plan.frontend_id)
        open_files.allow_most()
        tenants = Tenants(config.keys if config.needs_key else None, plan.secret)
        self._watch_keys(tenants)
        self.limits = TenantLimits(config)
        self.client = ClusterClient(config, tenants, self.limits)
        args = parse_flags(vllm_flags(config, model_path=resolve_model(config), on_cpu=False))
        self.llm = llm_over(self.client, args)
        self._attach_client()
        logging.getLogger("shoal").setLevel(logging.WARNING)  # a library of vLLM's application sets the root to ERROR
        requests.setLevel(logging.INFO if config.log_requests else logging.WARNING)
        edge = HttpEdge(await app_over(self.llm, args), tenants.authenticate, config.limits, self.limits)
        self.grpc = await self._serve_grpc(tenants, edge)
        self.app = self._before(edge)
        url, self.metrics_server = serve_page(
            FrontendRegistry(self.dispatcher, config.model_name, plan.frontend_id), config.host, config.metrics_port
        )
        if config.frontend == "own":
            self._serve_http()
        stories, pilot = self.dispatcher.ledgers.stories, self.dispatcher.pilot
        self.inner = await InnerServer.start(stories, pilot, config.host, plan.token, InnerTls.of(config.tls))
        self._join(url)
        await self.grpc.set_serving(True)

    def _before(self, edge: HttpEdge) -> Application:
        """What stands in front of the edge."""
        plan, config = self.plan, self.plan.config
        app: Application = TracedHttp(edge) if tracing.is_on() else edge
        tls = InnerTls.of(config.tls)
        self.gallery = Gallery(plan.controller, plan.token, self.dispatcher.ledgers.stories, tls)
        if not config.console:
            return app
        acts = Acts(plan.admin or plan.controller, tls)
        return Console(app, self.gallery, acts, plan.token, needs_key=config.needs_key, tls=tls)

    def _attach_client(self) -> None:
        config = self.plan.config
        self.dispatcher = Dispatcher(
            policy=build_policy(config.policy, config.weights),
            limits=config.admission,
            slo=config.slo,
            rng=Random(),
            decode=self.client.decode,
            emit=self.client.emit,
            fail=self.client.fail,
        )
        self.dispatcher.view.split_from_tokens = config.disaggregation.split_from_tokens
        self.client.dispatcher = self.dispatcher
        self.dispatcher.ledgers.charge = self.limits.charge
        self.client.hash_blocks = block_hasher(self.llm.vllm_config)
        self.client.output_task = lambda: self.llm.output_handler

    async def _serve_grpc(self, tenants: Tenants, app: HttpEdge) -> GrpcServer:
        config = self.plan.config
        served = app.app.state.openai_serving_models  # type: ignore[attr-defined]
        models = Models(base=config.model_name, adapters=lambda: served.lora_requests)
        servicer = InferenceServicer(VllmEngine(self.llm), self.client, config.limits, models)
        tls = config.tls
        return await start_server(
            servicer,
            tenants.authenticate,
            config.limits,
            host=config.host,
            port=config.grpc_port,
            reuse_port=True,
            tenants=self.limits,
            credentials=server_credentials(tls.edge_cert, tls.edge_key) if tls.edge_cert and tls.edge_key else None,
        )

    def _watch_keys(self, tenants: Tenants) -> None:
        if self.plan.config.keys_file is None:
            return
        file = KeyFile(self.plan.config.keys_file, self.plan.config.keys)

        def look() -> None:
            if (keys := file.news()) is not None:
                tenants.replace(keys)

        look()
        self._repeat(look)

    def _serve_http(self) -> None:
        config = self.plan.config
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            listener.bind((config.host, config.http_port))
        except OSError as exc:
            raise StartFailed(f"http_port: {config.host}:{config.http_port} cannot be bound: {exc.strerror}") from None
        listener.listen(2048)
        settings = uvicorn.Config(
            self.app,
            http=guarded(config.limits),
            ssl_certfile=config.tls.edge_cert,
            ssl_keyfile=config.tls.edge_key,
            log_level="error",
            access_log=False,
            lifespan="off",
            timeout_keep_alive=IDLE_S,
        )
        settings.load()
        if settings.ssl is not None:
            self._watch_certificate(settings.ssl)
        self.http = uvicorn.Server(settings)
        # Signals are the process's, not ours.
        self.http.install_signal_handlers = lambda: None
        self.http.capture_signals = contextlib.nullcontext
        self.listener = listener
        self.tasks.append(asyncio.get_running_loop().create_task(self.http.serve(sockets=[listener])))

    def _repeat(self, look: Callable[[], None]) -> None:
        self.repeating.append(asyncio.get_running_loop().create_task(_repeat(look)))

    def _watch_certificate(self, context: ssl.SSLContext) -> None:
        """A new one is for new connections."""
        cert, key = self.plan.config.tls.edge_cert, self.plan.config.tls.edge_key
        assert cert is not None
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        seen = [cert.stat().st_mtime_ns]

        def look() -> None:
            with contextlib.suppress(OSError):  # SSLError too: it is being replaced
                if (now := cert.stat().st_mtime_ns) != seen[0]:
                    context.load_cert_chain(cert, key)
                    seen[0] = now

        self._repeat(look)

    def _join(self, metrics_url: str) -> None:
        config = self.plan.config
        info = cpb.FrontendInfo(
            id=self.plan.frontend_id,
            http=config.http_url,
            grpc=f"{config.host}:{self.grpc.port}",
            metrics=metrics_url,
            pid=os.getpid(),
            state="ready",
            inner=self.inner.address,
        )
        self.watch = MembershipWatch(
            controller=self.plan.controller,
            token=self.plan.token,
            frontend=info,
            vllm_version=VLLM_VERSION,
            hash_seed=hash_seed(),
            dispatcher=self.dispatcher,
            tls=InnerTls.of(config.tls),
        )
        self.watch.start()

    def healthy(self) -> bool:
        """Of this process alone: peers that are down must not get it restarted."""
        return all(not task.done() for task in [*self.tasks, *self.repeating]) and not self.dispatcher.ticker.done()

    async def stop(self) -> None:
        """Its clients are told first, while they can still be: what is resumable goes on through another frontend."""
        if self.http is not None:
            self.http.should_exit = True
        await self.grpc.set_serving(False)
        await self.gallery.close()
        await self.watch.close()
        await self.dispatcher.close()
        await self.grpc.stop(GRACE_S)
        await self.inner.stop()
        self.llm.shutdown()
        for task in self.repeating:
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=GRACE_S)
        await asyncio.to_thread(self.metrics_server.shutdown)
        self.metrics_server.server_close()
        await asyncio.to_thread(self.end_tracing)


async def _repeat(look: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(RELOAD_S)
        look()


__all__ = ["Frontend", "FrontendPlan"]
