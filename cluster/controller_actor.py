"""The controller as a Ray actor: named, detached, restarted without end; `__init__` runs again, at the same address."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import ray

from shoal.cluster.controller import Controller
from shoal.cluster.controller_metrics import ControllerMetrics
from shoal.cluster.controller_service import ControllerService, serve
from shoal.cluster.launcher_ray import BIRTH_S, RayLauncher
from shoal.cluster.logs import set_up_logs
from shoal.cluster.nodes import CONTROLLER, CONTROLLER_SLOT, INSTANCE_SLOT, NAMESPACE, own_address, slot
from shoal.cluster.registry import open_registry
from shoal.instance.metrics_page import serve_page
from shoal.proto.config import ClusterConfig

BIND_TRIES = 50


class ControllerActor:
    async def __init__(  # type: ignore[misc] # Ray awaits it
        self, config: ClusterConfig, *, cluster: str, run_id: str, address: str, logs: str, gpus: float
    ) -> None:
        set_up_logs(config.log_format, logging.INFO)
        token = config.secret.get_secret_value()
        # Instances need no API keys, and the secret comes to them as the token.
        config_json = config.model_dump_json(exclude={"keys", "secret"})
        place = slot(config, INSTANCE_SLOT)
        launcher = RayLauncher(
            config_json,
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
        address = f"{own_address(host)}:{port}"
        page = ControllerMetrics(self.controller, config.model_name)
        metrics, _server = serve_page(page, own_address(config.host), config.metrics_port)
        service = ControllerService(self.controller, token, metrics)
        for attempt in range(BIND_TRIES):
            try:
                self.server, self.address = await serve(service, address)
                return
            except OSError:
                if attempt + 1 == BIND_TRIES:
                    raise
                await asyncio.sleep(0.1)

    async def where(self) -> str:
        return self.address

    async def close(self) -> None:
        await self.controller.close()


def create_controller(
    config: ClusterConfig, *, cluster: str, run_id: str, address: str, logs: str, gpus: float
) -> ray.actor.ActorHandle:
    """Finds the one that is there, or makes it."""
    options = {"name": CONTROLLER, "namespace": NAMESPACE, "lifetime": "detached", "num_cpus": 0, "max_restarts": -1}
    options |= {"get_if_exists": True, "resources": slot(config, CONTROLLER_SLOT)}
    arguments = {"cluster": cluster, "run_id": run_id, "address": address, "logs": logs, "gpus": gpus}
    return ray.remote(ControllerActor).options(max_concurrency=64, **options).remote(config, **arguments)


__all__ = ["ControllerActor", "create_controller"]
