"""vLLM's schedulers with ours on top, without any runner: what a step samples is a function of the position alone, so
that a token which is lost, repeated or computed twice shows. Imports vLLM: only fixtures of tests marked `vllm` may
import this.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.kv_cache_interface import KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.structured_output import StructuredOutputManager

from shoal.instance.tiny_model import ensure_tiny_model
from shoal.instance.vllm_scheduler import AsyncParkingScheduler, ParkingScheduler
from shoal.instance.vllm_seam import (
    AsyncEngineArgs,
    FullAttentionSpec,
    KVEventsConfig,
    Request,
    RequestStatus,
    SamplingParams,
)

BLOCK = 16
BUDGET = 64
BLOCKS = 41  # the first is vLLM's null block


def token_at(position: int) -> int:
    return position * 7 % 251


class Bare:
    """`depth`: batches in flight at once, as EngineCore's queue has them. `said`: tokens by request."""

    def __init__(self, *, depth: int, slots: int = 8) -> None:
        arguments = AsyncEngineArgs(
            model=str(ensure_tiny_model()),
            dtype="float32",
            block_size=BLOCK,
            max_model_len=512,
            max_num_batched_tokens=BUDGET,
            max_num_seqs=slots,
            scheduling_policy="priority",
            enforce_eager=True,
            kv_events_config=KVEventsConfig(enable_kv_cache_events=True, publisher="null"),
        )
        config = arguments.create_engine_config()
        config.scheduler_config.async_scheduling = depth > 1
        spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=8, dtype=torch.float32)
        config.cache_config.num_gpu_blocks = BLOCKS
        kind = AsyncParkingScheduler if depth > 1 else ParkingScheduler
        self.scheduler = kind(
            config,
            KVCacheConfig(BLOCKS, [], [KVCacheGroupSpec(["layer"], spec)]),
            StructuredOutputManager(config),
            block_size=BLOCK,
            log_stats=False,
        )
        self.config, self.depth = config, depth
        self.cache = self.scheduler.kv_cache_manager
        self.flying: deque[tuple[Any, dict[str, list[int]]]] = deque()
        self.said: dict[str, list[int]] = {}
        self.ended: dict[str, str] = {}
        init_none_hash(sha256)
        self.hasher = get_request_block_hasher(BLOCK, sha256)

    def request(self, name: str, prompt: list[int], max_tokens: int = 12) -> Request:
        params = SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True)
        return Request(name, prompt, params, None, arrival_time=0.0, block_hasher=self.hasher)

    def add(self, name: str, prompt_tokens: int, max_tokens: int = 12) -> Request:
        request = self.request(name, [len(name) + n for n in range(prompt_tokens)], max_tokens)
        self.scheduler.add_request(request)
        self.said[name] = []
        return request

    def free_blocks(self) -> int:
        return self.cache.block_pool.get_num_free_blocks()

    # -- steps

    def launch(self) -> Any:
        """Plan one batch and send it off."""
        plan = self.scheduler.schedule()
        sampled = {}
        for name in plan.num_scheduled_tokens:
            request = self.scheduler.requests[name]
            sampled[name] = [] if request.is_prefill_chunk else [token_at(request.num_computed_tokens)]
        self.flying.append((plan, sampled))
        return plan

    def land(self) -> None:
        """The oldest batch is back."""
        plan, sampled = self.flying.popleft()
        names = list(sampled)
        output = ModelRunnerOutput(names, {name: n for n, name in enumerate(names)}, list(sampled.values()))
        for group in self.scheduler.update_from_output(plan, output).values():
            for one in group.outputs:
                self.said[one.request_id] += one.new_token_ids
                if one.finish_reason is not None:
                    self.ended[one.request_id] = str(one.finish_reason)

    def step(self) -> None:
        """As EngineCore does with and without a batch queue."""
        if self.scheduler.has_requests():
            self.launch()
        while len(self.flying) >= self.depth or (self.flying and not self.scheduler.has_requests()):
            self.land()

    def finish(self, limit: int = 200) -> None:
        while self.scheduler.has_requests() or self.flying:
            limit -= 1
            assert limit, "it does not come to an end"
            self.step()

    def abort(self, name: str) -> None:
        self.scheduler.finish_requests(name, RequestStatus.FINISHED_ABORTED)


__all__ = ["BLOCK", "BLOCKS", "BUDGET", "Bare", "token_at"]
