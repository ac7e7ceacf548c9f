"""The environment that every process of a cluster inherits. It must be complete before Ray starts."""

from __future__ import annotations

import os
from collections.abc import Mapping

from shoal.cluster.reaper import MARK
from shoal.instance.engine_factory import is_local
from shoal.instance.vllm_flags import VLLM_ENVIRONMENT
from shoal.proto.config import ClusterConfig

_FIXED = {
    "RAY_worker_niceness": "0",  # Ray's default, 15, lets any other process starve the engine
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # an actor that asks for no GPU still sees them
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "false",
    "RAY_AUTH_MODE": "token",  # Ray listens on all interfaces, whatever address it is given
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    "DO_NOT_TRACK": "1",
    "PYTHONUNBUFFERED": "1",
}
# Each changes what is computed, listened to or unpickled.
_REMOVED = (
    "VLLM_CPU_KVCACHE_SPACE",
    "VLLM_SERVER_DEV_MODE",
    "VLLM_ALLOW_INSECURE_SERIALIZATION",
    "PYTHONHASHSEED",
    "RAY_ADDRESS",
)


def engine_threads(config: ClusterConfig, cores: int) -> int:
    return 1 if config.engine.pin_cores else max(1, cores // config.instances)


def cluster_environment(
    config: ClusterConfig, *, run_id: str, ray_token: str, base: Mapping[str, str], cores: int | None = None
) -> dict[str, str]:
    environment = {name: value for name, value in base.items() if name not in _REMOVED}
    threads = str(engine_threads(config, cores or os.cpu_count() or 1))
    environment = {"OMP_NUM_THREADS": threads, **environment}  # the user's own number holds
    environment |= {name: value for name, value in VLLM_ENVIRONMENT.items() if name != "OMP_NUM_THREADS"}
    environment |= {**_FIXED, "RAY_AUTH_TOKEN": ray_token, MARK: run_id}
    if config.model == "tiny" or is_local(config.model):
        environment["HF_HUB_OFFLINE"] = "1"
    if config.frontend == "haproxy":
        environment["RAY_SERVE_ENABLE_HA_PROXY"] = "1"
    return environment


__all__ = ["cluster_environment", "engine_threads"]
