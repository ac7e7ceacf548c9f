"""What the instance tells of one request inside vLLM, and why some cannot be moved. Reads only."""

from __future__ import annotations

from typing import Any

from shoal.instance.mover import Phase, Sight
from shoal.instance.vllm_seam import FullAttentionSpec, Request, RequestStatus


def engine_hindrance(vllm_config: Any, kv_cache_config: Any) -> str:
    """Why this engine moves nothing at all; empty: it does. Moving elsewhere than on CPUs was never tried."""
    parallel = vllm_config.parallel_config
    groups = kv_cache_config.kv_cache_groups
    reasons = {
        "its KV cache is not on a CPU": vllm_config.device_config.device_type != "cpu",
        "prefix caching is off": not vllm_config.cache_config.enable_prefix_caching,
        "its model has more than one kind of KV cache": [type(g.kv_cache_spec) for g in groups] != [FullAttentionSpec],
        "its KV blocks are zeroed before use": kv_cache_config.needs_kv_cache_zeroing,
        "it decodes speculatively": vllm_config.speculative_config is not None,
        "it has logits processors of its own": bool(vllm_config.model_config.logits_processors),
        "its ranks share layers or contexts": parallel.world_size != parallel.tensor_parallel_size
        or parallel.decode_context_parallel_size > 1,
    }
    return next((reason for reason, hinders in reasons.items() if hinders), "")


def hindrance(request: Request) -> str:
    """Why this request cannot be moved now; empty: it can. More kinds are never let in, see request_checks.py."""
    running = request.status == RequestStatus.RUNNING
    params = request.sampling_params
    if request.status == RequestStatus.WAITING_FOR_REMOTE_KVS:
        return "its blocks are being loaded"
    if request.kv_transfer_params:
        return "it has parameters for another connector"
    if not running and request.num_computed_tokens:
        return "it has only just come"
    if running and params.prompt_logprobs is not None and request.num_computed_tokens < request.num_prompt_tokens:
        return "logprobs of its prompt are being made"
    return ""


def sealed_blocks(request: Request, block_size: int) -> int:
    """vLLM counts tokens as computed when they are scheduled; blocks are sealed by finished steps."""
    sealed: int = (request.num_computed_tokens - request.num_in_flight_tokens) // block_size
    return max(0, sealed)


def sight_of(request: Request, *, parked: bool, held_blocks: int, block_size: int, never: str) -> Sight:
    phase = Phase.RUNNING if request.status == RequestStatus.RUNNING else Phase.WAITING
    return Sight(
        engine_id=request.request_id,
        phase=Phase.MOVING if parked else phase,
        priority=request.priority,
        prompt_tokens=request.num_prompt_tokens,
        output_tokens=request.num_output_tokens,
        computed_tokens=request.num_computed_tokens,
        sealed_blocks=sealed_blocks(request, block_size),
        blocks=held_blocks or -(-request.num_tokens // block_size),
        max_new_tokens=request.max_tokens,
        lora=request.lora_request.lora_name if request.lora_request else "",
        unmovable=never or hindrance(request),
    )


__all__ = ["engine_hindrance", "hindrance", "sealed_blocks", "sight_of"]
