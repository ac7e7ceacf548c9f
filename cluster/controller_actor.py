"""The controller as a Ray actor: named, detached, restarted without end; `__init__` runs again, at the same address."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import ray

from shoal.cluster.admin_gate import AdminGate, InnerGate
from shoal.cluster.controller import Controller
from shoal.cluster.controller_metrics import ControllerMetrics
from shoal.cluster.controller_service import ControllerService, serve
from shoal.cluster.launcher_ray import BIRTH_S, RayLauncher
from shoal.cluster.logs import set_up_logs
from shoal.cluster.nodes import CONTROLLER, CONTROLLER_SLOT, INSTANCE_SLOT, NAMESPACE, own_address, slot
from shoal.cluster.registry import open_registry
from shoal.cluster.tenants import Tenants
from shoal.instance.inner_tls import InnerTls
from shoal.instance.metrics_page import serve_page
from shoal.proto.config import ClusterConfig

BIND_TRIES = 50


class ControllerActor:
    async def __init__(  # type: ignore[misc] # Ray awaits it
        self, config: ClusterConfig, *, cluster: str, run_id: str, address: str, logs: str, gpus: float
    ) -> None:
        set_up_logs(config.log_format, logging.INFO)
        token = config.token("inner")
        place = slot(config, INSTANCE_SLOT)
        launcher = RayLauncher(
            config_of_instances(config),
            token,
            run_id=run_id,
            logs=Path(logs),
            gpus=gpus,
            place=place,
            birth_s=config.start_timeout_s if place else BIRTH_S,
        )
        registry = open_registry(config.registry, cluster)
        self.controller = Controller(config, token=token, run_id=run_id, launcher=launcher, registry=registry)
        await self.controller.run()
        host, port = address.rsplit(":", 1)
        host = own_address(host)
        page = ControllerMetrics(self.controller, config.model_name)
        metrics, _server = serve_page(page, own_address(config.host), config.metrics_port)
        service, tls = ControllerService(self.controller, metrics), InnerTls.of(config.tls)
        inner, admin = InnerGate(token), AdminGate(config.token("admin"), config.admin_keys)
        self.server, self.address = await _serve_soon(service, f"{host}:{port}", inner, tls)
        self.admin_server, self.admin = await _serve_soon(service, f"{host}:{config.admin_port}", admin, tls)

    async def where(self) -> str:
        return self.address

    async def where_admin(self) -> str:
        return self.admin

    async def close(self) -> None:
        await self.controller.close()


async def _serve_soon(service: ControllerService, address: str, gate: Any, tls: InnerTls) -> tuple[Any, str]:
    """A former life of this controller may still hold the port for a moment."""
    for attempt in range(BIND_TRIES):
        try:
            return await serve(service, address, gate, tls)
        except OSError:
            if attempt + 1 == BIND_TRIES:
                raise
            await asyncio.sleep(0.1)
    raise AssertionError("the last try returns or raises")


def config_of_instances(config: ClusterConfig) -> str:
    """As JSON. Instances and pools need no key of anybody; of the secret they get one token, and salts, not names."""
    tenants = Tenants(None, config.token("salt"))
    names = set(config.keys.values()) | set(config.tenants)
    shares = {tenants.salt(name, config.model_name): config.tenant(name).pool_share for name in names}
    pool = config.pool.model_copy(update={"shares": {salt: share for salt, share in shares.items() if share < 1}})
    hidden = {"keys", "keys_file", "admin_keys", "tenants", "secret", "registry"}
    return config.model_copy(update={"pool": pool}).model_dump_json(exclude=hidden)


def create_controller(
    config: ClusterConfig, *, cluster: str, run_id: str, address: str, logs: str, gpus: float
) -> ray.actor.ActorHandle:
    """Finds the one that is there, or makes it."""
    options = {"name": CONTROLLER, "namespace": NAMESPACE, "lifetime": "detached", "num_cpus": 0, "max_restarts": -1}
    options |= {"get_if_exists": True, "resources": slot(config, CONTROLLER_SLOT)}
    arguments = {"cluster": cluster, "run_id": run_id, "address": address, "logs": logs, "gpus": gpus}
    return ray.remote(ControllerActor).options(max_concurrency=64, **options).remote(config, **arguments)


__all__ = ["ControllerActor", "config_of_instances", "create_controller"]
