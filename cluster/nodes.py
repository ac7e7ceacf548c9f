"""The machines that one Ray spans: what each offers, the address its processes listen on, and where the controller is.

With `host: node` every process listens on its own machine's address, and runs where Ray was started with a slot for it
(`ray start --resources '{"shoal_instance": 2}'`). With any other host all is on one machine, and slots mean nothing.
"""

from __future__ import annotations

import ray
from ray.exceptions import RayError

from shoal.proto.config import NODE, ClusterConfig
from shoal.proto.errors import Unavailable

NAMESPACE = "shoal"
CONTROLLER = "controller"
CONTROLLER_SLOT = "shoal_controller"
FRONTEND_SLOT = "shoal_frontend"
INSTANCE_SLOT = "shoal_instance"
ANSWER_S = 5.0


def slot(config: ClusterConfig, name: str) -> dict[str, float]:
    """What to ask Ray for, so that the process gets a place of that kind."""
    return {name: 1.0} if config.host == NODE else {}


def own_address(host: str) -> str:
    """Asked in the process that will listen there."""
    return str(ray.util.get_node_ip_address()) if host == NODE else host


def at_home(config: ClusterConfig) -> ClusterConfig:
    """The configuration as this process must read it."""
    return config.model_copy(update={"host": own_address(config.host)})


def find_controller(*, admin: bool = False) -> str:
    """The present address of its inner or its admin port, which change when it is restarted elsewhere. Blocks. Raises
    Unavailable.
    """
    try:
        handle = ray.get_actor(CONTROLLER, NAMESPACE)
        where = handle.where_admin if admin else handle.where
        return str(ray.get(where.remote(), timeout=ANSWER_S))
    except (RayError, ValueError, TimeoutError) as exc:
        raise Unavailable(f"controller: {type(exc).__name__}") from None


__all__ = [
    "CONTROLLER",
    "CONTROLLER_SLOT",
    "FRONTEND_SLOT",
    "INSTANCE_SLOT",
    "NAMESPACE",
    "at_home",
    "find_controller",
    "own_address",
    "slot",
]
