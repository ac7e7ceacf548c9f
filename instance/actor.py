"""The instance process, as Ray runs it: imports first (a spare), then one engine, one gRPC server, until it is stopped
or dies.

A plain class without Ray in it; the controller wraps it. Its process leads a process group, so that whoever sees it die
can end all that it started. When the engine dies the process exits at once: an instance without an engine must not look
alive.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import grpc

from shoal.instance.engine_factory import build_engine, digest_of_weights, import_engine
from shoal.instance.gate import AsyncGate
from shoal.instance.inner_tls import InnerTls
from shoal.instance.metrics import serve_metrics
from shoal.instance.seam import Engine
from shoal.instance.server import InstanceServer
from shoal.instance.trace_start import start_tracing
from shoal.proto.config import ClusterConfig
from shoal.proto.errors import ShoalError, StartFailed, Unavailable
from shoal.proto.v1 import instance_pb2_grpc as rpc

MAX_MESSAGE_BYTES = 256 << 20
ENGINE_DEATH_EXIT = 70
SERVER_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A frontend that is frozen or cut off ends no stream by itself; its requests must become adoptable within seconds.
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.http2.ping_timeout_ms", 1000),
    ("grpc.http2.max_pings_without_data", 0),
)
SWITCH_INTERVAL_S = 0.0005  # the step thread gets the GIL back from the event loop ten times sooner than by default


def lead_process_group() -> None:
    if os.getpid() != os.getpgid(0):
        os.setpgid(0, 0)


def last_words(exc: Exception) -> str:
    """The end of an error's text, where libraries say what is wrong, in one line; pydantic only adds its address."""
    lines = [line.strip() for line in str(exc).splitlines() if "errors.pydantic.dev" not in line]
    return " ".join([line for line in lines if line][-3:]) or "no reason given"


class InstanceActor:
    """Life: warm -> start -> (serving) -> stop. Each act answers or raises StartFailed with one line."""

    def __init__(self, config_json: str, token: str) -> None:
        lead_process_group()
        self.config, self.token = ClusterConfig.model_validate_json(config_json), token
        self.tls = InnerTls.of(self.config.tls)
        self.stage, self.pool = "spare", ""
        self.server: InstanceServer | None = None
        self.grpc_server: Any = None
        self.metrics_server: Any = None

    async def warm(self) -> dict[str, int]:
        self.stage = "importing vLLM" if self.config.engine.kind == "vllm" else "importing"
        await asyncio.to_thread(import_engine, self.config)
        self.stage = "imported"
        return {"pid": os.getpid()}

    async def start(self, instance_id: str, incarnation: int, core: int | None) -> dict[str, Any]:
        await self.warm()
        try:
            engine = await asyncio.to_thread(self._load)
            if self.config.pool.memory_bytes:
                await self._join_pool(engine)
            return await self._serve(engine, instance_id, core)
        except ShoalError:
            raise
        except Exception as exc:
            raise StartFailed(f"instance {instance_id}: {type(exc).__name__}: {last_words(exc)}") from None

    def _load(self) -> Engine:
        self.stage = "loading the model"
        engine = build_engine(self.config)
        self.stage = "warming up"
        engine.warm_up()
        for number, (name, path) in enumerate(self.config.lora.items(), start=1):
            engine.call("add_lora", {"lora_name": name, "lora_int_id": number, "lora_path": path})
        return engine

    async def _join_pool(self, engine: Any) -> None:
        """An instance without its node's pool serves all the same, and says why it has none."""
        self.stage = "joining the pool"
        try:
            address = await self.pool_address(engine.block_bytes())
            weights = await asyncio.to_thread(digest_of_weights, self.config)
            engine.attach_pool(address, self.token, weights=weights, tls=self.tls)
            self.pool = address
        except Exception as exc:
            print(f"no pool: {type(exc).__name__}: {last_words(exc)}", file=sys.stderr, flush=True)

    async def pool_address(self, block_bytes: int) -> str:
        """Of this node's pool, opened for blocks of this size. Whoever hosts this instance knows where it is."""
        raise Unavailable("nobody here keeps a pool")

    async def _serve(self, engine: Engine, instance_id: str, core: int | None) -> dict[str, Any]:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self.end_tracing = start_tracing(self.config.tracing, "instance", instance_id)
        self.server = InstanceServer(
            engine,
            instance_id=instance_id,
            role="mixed",
            token=self.token,
            tls=self.tls,
            pid=os.getpid(),
            on_death=self._die,
            core=core,
        )
        self.server.loras = list(self.config.lora)
        self.grpc_server = grpc.aio.server(options=SERVER_OPTIONS, interceptors=[AsyncGate(self.token)])
        rpc.add_InstanceServicer_to_server(self.server, self.grpc_server)
        port = self.tls.bind(self.grpc_server, f"{self.config.host}:0")
        await self.grpc_server.start()
        self.server.start()
        url, self.metrics_server = serve_metrics(self.server, self.config.host, self.config.metrics_port)
        self.stage = "ready"
        return {"address": f"{self.config.host}:{port}", "pid": os.getpid(), "metrics": url, "pool": self.pool}

    def _die(self, reason: str) -> None:
        if self.stage != "stopping":
            print(f"engine died: {reason}", file=sys.stderr, flush=True)
            os._exit(ENGINE_DEATH_EXIT)

    async def progress(self) -> str:
        return self.stage

    async def ping(self) -> dict[str, Any]:
        return {"pid": os.getpid(), "stage": self.stage}

    async def stop(self) -> None:
        self.stage = "stopping"
        if self.server is not None:
            await self.server.stop()
            await self.grpc_server.stop(grace=0.2)
            await asyncio.to_thread(self.server.stepper.thread.join, 10.0)
            self.metrics_server.shutdown()
            self.metrics_server.server_close()
            self.server.engine.shutdown()
            await asyncio.to_thread(self.end_tracing)


__all__ = ["ENGINE_DEATH_EXIT", "InstanceActor"]
