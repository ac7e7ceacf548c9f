"""Frontends as a Ray Serve deployment: Serve places, restarts and scales the replicas; each runs one Frontend.

`own`: each replica has its own listeners on the shared ports (SO_REUSEPORT) and Serve's proxy is off. `haproxy`: HTTP
comes through Serve's HAProxy, and the replica hands it vLLM's application.
"""

from __future__ import annotations

import logging
import os
import uuid
from functools import partial
from typing import Any

from pydantic import SecretStr
from ray import serve
from ray.serve import Application
from ray.serve.api import RunTarget

from shoal.cluster.logs import set_up_logs
from shoal.cluster.nodes import FRONTEND_SLOT, at_home, find_controller, slot
from shoal.instance.actor import lead_process_group
from shoal.instance.vllm_flags import set_vllm_environment
from shoal.proto.config import ClusterConfig

APPLICATION = "shoal"
HEALTH_PERIOD_S = 2.0
HEALTH_TIMEOUT_S = 30.0
DRAIN_S = 5.0


class FrontendReplica:
    """One replica. Its work is Frontend's. `config` is without the secret, of which it gets two derived ones."""

    async def __init__(self, config: ClusterConfig, token: str, salt: str) -> None:  # type: ignore[misc] # Ray awaits it
        lead_process_group()
        set_up_logs(config.log_format, logging.WARNING)
        os.environ["VLLM_MAX_N_SEQUENCES"] = str(config.limits.choices)
        set_vllm_environment()
        from shoal.cluster.frontend import Frontend, FrontendPlan  # noqa: PLC0415 - imports vLLM, for 12 to 40 s

        plan = FrontendPlan(
            config=at_home(config),
            frontend_id=f"frontend-{uuid.uuid4().hex[:8]}",
            token=token,
            secret=salt,
            controller=find_controller,
            admin=partial(find_controller, admin=True),
        )
        self.frontend = Frontend(plan)
        await self.frontend.start()

    async def __serve_build_asgi_app__(self) -> Any:
        return self.frontend.app

    async def check_health(self) -> None:
        if not self.frontend.healthy():
            raise RuntimeError("a listener or the ticker of this frontend has ended")

    async def __del__(self) -> None:
        await self.frontend.stop()


def frontends(config: ClusterConfig, *, drain_s: float = DRAIN_S) -> Application:
    """The deployment, not run yet. `drain_s`: how long a replica that must go may finish what it has."""
    # ingress() without an application: vLLM's cannot be pickled, so the replica builds it.
    replicas: Any = serve.deployment(
        serve.ingress()(FrontendReplica),
        name="frontend",
        num_replicas=config.frontends,
        max_ongoing_requests=10_000,
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        graceful_shutdown_timeout_s=drain_s,
        graceful_shutdown_wait_loop_s=0.2,
        ray_actor_options={"num_cpus": 0, "resources": slot(config, FRONTEND_SLOT)},
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
    )
    public = config.model_copy(update={"secret": SecretStr(""), "admin_keys": {}, "registry": "memory"})
    application: Application = replicas.bind(public, config.token("inner"), config.token("salt"))
    return application


def deploy(config: ClusterConfig) -> None:
    """Starts Serve and the frontends; returns once they are asked for, not once they serve."""
    location = "Disabled" if config.frontend == "own" else "HeadOnly"
    serve.start(proxy_location=location, http_options={"host": config.host, "port": config.http_port})
    target = RunTarget(frontends(config), name=APPLICATION, route_prefix="/")
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


__all__ = ["APPLICATION", "deploy", "frontends"]
