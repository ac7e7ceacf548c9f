"""The whole cluster as one Ray Serve application, for a Ray that somebody else started: KubeRay's RayService, or
`serve deploy`.

`import_path: shoal.cluster.serve_application:build`. Building it makes the controller, or finds the one that is there,
and waits until the instances have started, so that a new cluster gets traffic only when it can answer. Ray's own
processes must have been started with `cluster_environment` and with the slots of `shoal.cluster.nodes`.
"""

from __future__ import annotations

import os
import time
from typing import Any

import ray
from ray.serve import Application

from shoal.cluster.config_files import ConfigFiles, read_config
from shoal.cluster.controller_actor import create_controller
from shoal.cluster.controller_client import ControllerClient
from shoal.cluster.frontend_deployment import frontends
from shoal.cluster.nodes import find_controller
from shoal.cluster.reaper import MARK
from shoal.instance.inner_tls import InnerTls
from shoal.proto.config import NODE, ClusterConfig
from shoal.proto.errors import StartFailed
from shoal.proto.v1 import controller_pb2 as pb

POLL_S = 0.5
CONTROLLER_S = 90.0
PASSING_STATES = {"starting", "dead", "hung", "stopped"}


class ApplicationArgs(ConfigFiles):
    """`args` of the application. gpus: per instance. drain_s: how long a frontend that must go may finish what it has.
    logs: Ray's, in every pod.
    """

    gpus: float = 0.0
    drain_s: float = 5.0
    logs: str = "/tmp/ray/session_latest/logs"


def started(status: pb.StatusReply) -> bool:
    """Somebody answers, and nobody is still on the way. Raises StartFailed when nobody will."""
    states = {one.state for one in status.instances}
    if "ready" in states:
        return not states & {"starting", "stopped"}
    if states & PASSING_STATES:
        return False
    raise StartFailed("; ".join(f"instance {one.id}: {one.state}: {one.note}" for one in status.instances))


def _await_instances(config: ClusterConfig) -> None:
    end_s = time.monotonic() + config.start_timeout_s
    with ControllerClient(find_controller(), config.token("inner"), tls=InnerTls.of(config.tls)) as client:
        while not started(client.status(patience_s=10.0)):
            if time.monotonic() > end_s:
                raise StartFailed(f"start_timeout_s: no instance is ready after {config.start_timeout_s:g} s")
            time.sleep(POLL_S)


def build(arguments: dict[str, Any]) -> Application:
    """Called by Serve, in a Ray task of its own, with the `args` of its configuration: see ApplicationArgs."""
    args = ApplicationArgs.model_validate(arguments)
    config = read_config(args)
    run_id = os.environ.get(MARK, "shoal")
    controller = create_controller(
        config, cluster=run_id, run_id=run_id, address=f"{NODE}:0", logs=args.logs, gpus=args.gpus
    )
    ray.get(controller.where.remote(), timeout=CONTROLLER_S)
    _await_instances(config)
    return frontends(config, drain_s=args.drain_s)


__all__ = ["ApplicationArgs", "build", "started"]
