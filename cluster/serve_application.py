"""The whole cluster as one Ray Serve application, for a Ray that somebody else started: KubeRay's RayService, or
`serve deploy`.

`import_path: shoal.cluster.serve_application:build`. Building it makes the controller, or finds the one that is there,
and waits until the instances have started, so that a new cluster gets traffic only when it can answer. Ray's own
processes must have been started with `cluster_environment` and with the slots of `shoal.cluster.nodes`.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import ray
import yaml
from pydantic import BaseModel, ConfigDict
from ray.serve import Application

from shoal.cluster.controller_actor import create_controller
from shoal.cluster.controller_client import ControllerClient
from shoal.cluster.frontend_deployment import frontends
from shoal.cluster.nodes import find_controller
from shoal.cluster.reaper import MARK
from shoal.proto.config import NODE, ClusterConfig, load_config
from shoal.proto.errors import StartFailed
from shoal.proto.v1 import controller_pb2 as pb

POLL_S = 0.5
CONTROLLER_S = 90.0
PASSING_STATES = {"starting", "dead", "hung", "stopped"}


class ApplicationArgs(BaseModel):
    """`args` of the application.

    config: the file that `shoal up --config` takes. secrets: a folder whose files are keys of it (`secret`, `registry`:
    text; `keys.yaml`: YAML). gpus: per instance. drain_s: how long a frontend that must go may finish what it has.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: Path
    secrets: Path | None = None
    gpus: float = 0.0
    drain_s: float = 5.0
    logs: str = "/tmp/ray/session_latest/logs"


def read_config(args: ApplicationArgs) -> ClusterConfig:
    """Raises StartFailed with one line per wrong key."""
    files = sorted(args.secrets.iterdir()) if args.secrets else []
    secrets = {path.stem: _value(path) for path in files if path.is_file() and not path.name.startswith(".")}
    config = load_config(args.config, secrets)
    if config.host != NODE:
        raise StartFailed(f"host: must be {NODE!r} where Ray spans machines, given {config.host!r}")
    return config


def _value(path: Path) -> Any:
    text = path.read_text().strip()
    return yaml.safe_load(text) if path.suffix == ".yaml" else text


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
    with ControllerClient(find_controller(), config.secret.get_secret_value()) as client:
        while not started(client.status(patience_s=10.0)):
            if time.monotonic() > end_s:
                raise StartFailed(f"start_timeout_s: no instance is ready after {config.start_timeout_s:g} s")
            time.sleep(POLL_S)


def build(args: ApplicationArgs) -> Application:
    """Called by Serve, in a Ray task of its own."""
    config = read_config(args)
    run_id = os.environ.get(MARK, "shoal")
    controller = create_controller(
        config, cluster=run_id, run_id=run_id, address=f"{NODE}:0", logs=args.logs, gpus=args.gpus
    )
    ray.get(controller.where.remote(), timeout=CONTROLLER_S)
    _await_instances(config)
    return frontends(config, drain_s=args.drain_s)


__all__ = ["ApplicationArgs", "build", "read_config", "started"]
