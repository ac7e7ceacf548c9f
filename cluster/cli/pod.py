"""How the command line finds its cluster inside one of the cluster's own pods: through the Ray that runs there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import ray

from shoal.cluster.config_files import ConfigFiles, read_config
from shoal.cluster.controller_client import ControllerClient, admin_client
from shoal.cluster.nodes import NAMESPACE, find_controller
from shoal.proto.errors import Unavailable


def connect_in_pod(environment: Mapping[str, str]) -> ControllerClient:
    """SHOAL_CONFIG and SHOAL_SECRETS say where the pod's configuration is."""
    config = read_config(
        ConfigFiles(config=Path(environment["SHOAL_CONFIG"]), secrets=Path(environment["SHOAL_SECRETS"]))
    )
    try:
        ray.init(address="auto", namespace=NAMESPACE, log_to_driver=False, configure_logging=False)
    except ConnectionError as exc:
        raise Unavailable(f"Ray does not run here: {exc}") from None
    return admin_client(find_controller(admin=True), config)


__all__ = ["connect_in_pod"]
