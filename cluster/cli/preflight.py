"""What can be known to be wrong before anything is started: model path, ports, memory. Each is one clear line."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil

from shoal.cluster.ports import claim_port
from shoal.instance.engine_factory import resolve_model
from shoal.instance.tiny_model import tiny_model_path
from shoal.instance.vllm_flags import CPU_KV_CACHE_BYTES
from shoal.proto.config import ClusterConfig
from shoal.proto.errors import StartFailed

GIB = 1 << 30


def has_gpu() -> bool:
    return Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None


def check_memory(config: ClusterConfig, *, available_bytes: int) -> None:
    """The caches alone must fit; weights and code come on top, and their failure is told by the instance."""
    each = config.engine.kv_cache_bytes or CPU_KV_CACHE_BYTES
    needed = each * config.instances
    if needed > available_bytes:
        raise StartFailed(
            f"engine.kv_cache_bytes: {config.instances} instances x {each / GIB:.1f} GiB need {needed / GIB:.1f} GiB, "
            f"free are {available_bytes / GIB:.1f} GiB"
        )


def claim_ports(config: ClusterConfig) -> ClusterConfig:
    """The same configuration with real ports where 0 stood."""
    http = claim_port("http_port", config.host, config.http_port)
    grpc = claim_port("grpc_port", config.host, config.grpc_port)
    return config.model_copy(update={"http_port": http, "grpc_port": grpc})


def check(config: ClusterConfig) -> ClusterConfig:
    """Raises StartFailed. Returns the configuration to start with."""
    if config.engine.kind == "vllm":
        if config.model != "tiny":
            resolve_model(config)
        elif not tiny_model_path().exists():
            print("making a small model with random weights ...", flush=True)
            resolve_model(config)
        if not has_gpu():
            check_memory(config, available_bytes=psutil.virtual_memory().available)
    for name, folder in config.lora.items():
        if not (Path(folder).expanduser() / "adapter_config.json").is_file():
            raise StartFailed(f"lora {name}: {folder} is not an adapter folder (no adapter_config.json in it)")
    return claim_ports(config)


__all__ = ["check", "check_memory", "claim_ports", "has_gpu"]
