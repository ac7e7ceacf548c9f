"""The vLLM command-line flags that a cluster's configuration stands for: the same for engines and frontends, so that
both agree.
"""

from __future__ import annotations

import os

from shoal.proto.config import ClusterConfig

# Read by vLLM at import, so they must be in the environment of every process before it.
VLLM_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # "uni" is silently swapped for "mp" otherwise
    "VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES": "0",  # index and pool share the full 32-byte hash
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "OMP_NUM_THREADS": "1",
}
CPU_KV_CACHE_BYTES = 1 << 30
NO_DOMAIN = "none.invalid"


def set_vllm_environment() -> None:
    for name, value in VLLM_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def vllm_flags(config: ClusterConfig, *, model_path: str, on_cpu: bool) -> list[str]:
    """Arguments for vLLM's own parser, without program name."""
    engine = config.engine
    # vLLM's "auto" turns a float32 model into bfloat16; the tiny one's logits are so close that tokens would then
    # depend on who else is in the batch.
    dtype = "float32" if config.model == "tiny" and engine.dtype == "auto" else engine.dtype
    flags = ["--model", model_path, "--served-model-name", config.model_name, "--dtype", dtype]
    flags += ["--block-size", str(engine.block_size), "--max-num-batched-tokens", str(engine.max_num_batched_tokens)]
    flags += ["--max-num-seqs", str(engine.max_num_seqs), "--tensor-parallel-size", str(engine.tensor_parallel_size)]
    flags += ["--scheduling-policy", "priority", "--enable-prefix-caching", "--disable-uvicorn-access-log"]
    flags += ["--allowed-media-domains", NO_DOMAIN]  # nothing that a client names is fetched; extra_args may allow some
    if engine.max_model_len is not None:
        flags += ["--max-model-len", str(engine.max_model_len)]
    kv_cache_bytes = engine.kv_cache_bytes or (CPU_KV_CACHE_BYTES if on_cpu else None)
    if kv_cache_bytes is not None:
        flags += ["--kv-cache-memory-bytes", str(kv_cache_bytes)]
    if engine.enforce_eager if engine.enforce_eager is not None else on_cpu:
        flags += ["--enforce-eager"]
    if config.lora:
        flags += ["--enable-lora", "--max-loras", str(engine.max_loras), "--max-lora-rank", str(engine.max_lora_rank)]
        flags += ["--lora-modules", *(f"{name}={path}" for name, path in config.lora.items())]
    return [*flags, *engine.extra_args]


__all__ = ["CPU_KV_CACHE_BYTES", "VLLM_ENVIRONMENT", "set_vllm_environment", "vllm_flags"]
