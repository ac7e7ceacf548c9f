"""What the instance relies on in the installed vLLM, name by name: another minor is refused, and within this one
nothing may change unseen. What needs a live engine stands at the end of test_vllm_engine.py.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from shoal.instance.vllm_flags import set_vllm_environment
from shoal.proto.codec import INLINE_BYTES
from shoal.proto.errors import VersionMismatch

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

# SHA-256 chains over tokens 0..8 in blocks of 4: without salt, with one, and for an adapter.
GOLDEN_ROOT = "066b1e8987e027138e98701c46128929378935f9b6cd1549105ae6b4f0d71198"
GOLDEN = {
    "plain": [
        "9da1c53089c000ad1a79a77c143b68dda00e2a85315bc1f690bbd03ba4a195dd",
        "1c9b6c0620e875631f1c5395ed56f2243aa113f88fc842f04fbb0654074b8d43",
    ],
    "salted": [
        "7c1178326effbb6386b227bd4c0551340260f7fd9dbe1d281a5b4609fb1c5cff",
        "66bdd7731ee8e3e38f586b9fbed2a4eae67e4c9f52b9b3bc0456733e2810e9ec",
    ],
    "adapter": [
        "167aa0f54a5fee9be1f0e97b017c81b22270d986272ff54554ccfaffacb45a91",
        "ea6d9ae9fe224555805c71f8e2ab07d8502dc9b025e038e27b574e5f9c623dde",
    ],
}


@pytest.fixture(scope="module")
def seam() -> Any:
    """Imported when the first of these tests runs: it takes tens of seconds."""
    set_vllm_environment()
    return importlib.import_module("shoal.instance.vllm_seam")


def load(name: str) -> Any:
    return importlib.import_module(f"vllm.{name}")


def parameters(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


# -- versions


def test_the_installed_version_is_supported(seam: Any) -> None:
    seam.require_supported_version()
    assert seam.VLLM_VERSION.startswith(f"{seam.SUPPORTED_MINOR}.")


@pytest.mark.parametrize("version", ["0.33.0", "0.31.9", "1.32.0", "0.320.0", "0.3", "dev", ""])
def test_another_minor_is_refused_with_both_versions(seam: Any, version: str) -> None:
    with pytest.raises(VersionMismatch, match=seam.SUPPORTED_MINOR) as refused:
        seam.require_supported_version(version)
    assert version in str(refused.value)


@pytest.mark.parametrize("version", ["0.32.0", "0.32.7", "0.32.1rc1", "0.32.0+cpu"])
def test_patches_of_this_minor_are_welcome(seam: Any, version: str) -> None:
    seam.require_supported_version(version)


def test_every_name_of_the_seam_is_there(seam: Any) -> None:
    assert [name for name in seam.__all__ if getattr(seam, name, None) is None] == []


# -- names of blocks


@pytest.fixture
def block_hashes(seam: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    utils, sha256 = load("v1.core.kv_cache_utils"), load("utils.hashing").sha256
    utils.init_none_hash(sha256)

    def hashes(salt: str | None = None, lora: Any = None) -> list[str]:
        request = seam.Request(
            "r",
            list(range(9)),
            seam.SamplingParams(max_tokens=1),
            None,
            cache_salt=salt,
            lora_request=lora,
            block_hasher=utils.get_request_block_hasher(4, sha256),
        )
        return [bytes(one).hex() for one in request.block_hashes]

    return hashes


def test_block_hashes_are_the_golden_ones(seam: Any, block_hashes: Callable[..., list[str]]) -> None:
    assert load("v1.core.kv_cache_utils").NONE_HASH.hex() == GOLDEN_ROOT
    assert block_hashes() == GOLDEN["plain"]
    assert block_hashes("salt") == GOLDEN["salted"]
    assert block_hashes(None, seam.LoRARequest("a", 1, "/a")) == GOLDEN["adapter"]


def test_the_root_of_all_chains_is_known_by_a_seed_that_can_be_compared(seam: Any) -> None:
    assert seam.get_none_hash_seed() == "vllm-none-hash"


# -- signatures


SIGNATURES: dict[str, list[str]] = {
    "v1.engine.core:EngineCore.__init__": [
        "vllm_config",
        "executor_class",
        "log_stats",
        "executor_fail_callback",
        "include_finished_set",
    ],
    "v1.engine.core:EngineCore.preprocess_add_request": ["request"],
    "v1.engine.core:EngineCore.add_request": ["request", "request_wave"],
    "v1.engine.core:EngineCore.abort_requests": ["request_ids"],
    "v1.engine.core:EngineCore.post_step": ["model_executed"],
    "v1.engine.core:EngineCore.step": [],
    "v1.engine.core:EngineCore.step_with_batch_queue": [],
    "v1.engine.core:EngineCore.collective_rpc": ["method", "timeout", "args", "kwargs"],
    "v1.engine.core:EngineCore.reset_prefix_cache": ["reset_running_requests", "reset_connector"],
    "v1.engine.core:EngineCore.add_lora": ["lora_request"],
    "v1.engine.core:EngineCore.remove_lora": ["lora_id"],
    "v1.engine.core:EngineCore.pin_lora": ["lora_id"],
    "v1.engine.core:EngineCore.list_loras": [],
    "v1.engine.core:EngineCore.shutdown": [],
    "v1.core.sched.scheduler:Scheduler.has_requests": [],
    "v1.core.sched.scheduler:Scheduler.add_request": ["request"],
    "v1.core.sched.scheduler:Scheduler.finish_requests": ["request_ids", "finished_status"],
    "v1.core.sched.scheduler:Scheduler.schedule": ["throttle_prefills"],
    "v1.core.sched.scheduler:Scheduler.has_finished_requests": [],
    "v1.core.sched.scheduler:Scheduler.get_request_counts": [],
    "v1.core.sched.scheduler:Scheduler._free_request": ["request", "delay_free_blocks"],
    "v1.core.sched.scheduler:Scheduler._enqueue_waiting_request": ["request"],
    "v1.core.sched.scheduler:Scheduler._is_blocked_waiting_status": ["status"],
    "v1.core.sched.request_queue:PriorityRequestQueue.remove_requests": ["requests"],
    "v1.core.kv_cache_manager:KVCacheManager.take_events": [],
    "v1.core.kv_cache_manager:KVCacheManager.get_computed_blocks": ["request"],
    "v1.core.kv_cache_manager:KVCacheManager.truncate_computed_blocks": ["blocks", "num_computed_tokens"],
    "v1.core.kv_cache_manager:KVCacheManager.allocate_slots": [
        *("request", "num_new_tokens", "num_new_computed_tokens", "new_computed_blocks", "num_lookahead_tokens"),
        *("num_external_computed_tokens", "delay_cache_blocks", "num_encoder_tokens", "full_sequence_must_fit"),
        *("reserved_blocks", "has_scheduled_reqs", "skip_zeroing_group_ids"),
    ],
    "v1.core.kv_cache_manager:KVCacheManager.cache_blocks": ["request", "num_computed_tokens"],
    "v1.core.kv_cache_manager:KVCacheManager.free": ["request"],
    "v1.core.kv_cache_manager:KVCacheManager.get_blocks": ["request_id"],
    "v1.core.kv_cache_manager:KVCacheManager.get_block_ids": ["request_id"],
    "v1.core.block_pool:BlockPool.touch": ["blocks"],
    "v1.core.block_pool:BlockPool.free_blocks": ["ordered_blocks"],
    "v1.core.kv_cache_utils:get_block_hash": ["key"],
    "v1.core.kv_cache_utils:FreeKVCacheBlockQueue.iter_blocks_after": ["cursor"],
    "v1.core.block_pool:BlockPool.get_cached_block": ["block_hash", "kv_cache_group_ids"],
    "v1.core.block_pool:BlockPool.get_num_free_blocks": [],
    "v1.structured_output:StructuredOutputManager.accept_tokens": ["request", "new_token_ids"],
    "v1.structured_output:StructuredOutputManager.grammar_init": ["request"],
    "v1.request:Request.append_output_token_ids": ["token_ids"],
    "v1.executor.abstract:Executor.get_class": ["vllm_config"],
    "v1.serial_utils:MsgpackEncoder.__init__": ["size_threshold", "oob_tensor_consumer"],
    "v1.serial_utils:MsgpackDecoder.__init__": ["t", "share_mem", "oob_tensor_provider"],
    "sampling_params:SamplingParams.verify": [
        "model_config",
        "speculative_config",
        "structured_outputs_config",
        "tokenizer",
    ],
}


def test_only_the_seam_imports_vllm() -> None:
    folder = Path(str(importlib.import_module("shoal.instance").__file__)).parent
    importing = re.compile(r"^\s*(from|import) vllm\b", re.MULTILINE)
    assert {path.name for path in folder.rglob("*.py") if importing.search(path.read_text())} == {"vllm_seam.py"}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_those_that_the_code_was_written_for(seam: Any, name: str) -> None:
    module, _, path = name.partition(":")
    function = load(module)
    for part in path.split("."):
        function = getattr(function, part)
    assert parameters(function) == SIGNATURES[name]


# -- shapes


def test_the_row_of_a_running_request_has_the_golden_fields(seam: Any) -> None:
    fields = dataclasses.fields(seam.CachedRequestState)
    no_default = [f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING]
    assert no_default == [
        "req_id",
        "prompt_token_ids",
        "mm_features",
        "sampling_params",
        "generator",
        "block_ids",
        "num_computed_tokens",
        "output_token_ids",
    ]
    assert [f.name for f in fields][len(no_default) :] == [
        "mrope_positions",
        "mrope_position_delta",
        "lora_request",
        "prompt_embeds",
        "in_progress_prompt_logprobs_cpu",
        "prompt_is_token_ids",
        "prev_num_draft_len",
        "pooling_params",
        "pooling_states",
    ]


def test_a_request_on_the_wire_has_the_golden_positions(seam: Any) -> None:
    assert seam.EngineCoreRequest.__struct_fields__ == (
        *("request_id", "prompt_token_ids", "mm_features", "sampling_params", "pooling_params", "arrival_time"),
        *("lora_request", "cache_salt", "data_parallel_rank", "prompt_embeds", "prompt_is_token_ids", "client_index"),
        *("current_wave", "priority", "trace_headers", "resumable", "external_req_id", "reasoning_ended"),
        *("reasoning_parser_kwargs", "abort_immediately", "session_id", "kv_hints"),
    )


def test_a_request_has_the_fields_that_a_continuation_sets(seam: Any) -> None:
    request = seam.Request("r", [1, 2], seam.SamplingParams(max_tokens=3), None)
    assert request.status is seam.RequestStatus.WAITING
    assert (request.num_preemptions, request.num_output_tokens, request.num_tokens) == (0, 0, 2)
    assert request.prefill_stats is not None
    assert request.structured_output_request is None
    request.append_output_token_ids([7, 8])
    assert (request.num_output_tokens, request.num_tokens, request.num_computed_tokens) == (2, 4, 0)
    assert seam.RequestStatus.PREEMPTED is not seam.RequestStatus.WAITING


def test_a_grammar_tells_when_it_is_ready_and_what_became_of_it(seam: Any) -> None:
    params = seam.StructuredOutputsParams(json="{}")
    params._backend = "xgrammar"
    request = seam.Request("r", [1], seam.SamplingParams(max_tokens=3, structured_outputs=params), None)
    grammar = request.structured_output_request
    assert request.status is seam.RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR
    assert grammar.is_grammar_ready
    assert grammar.grammar is None
    assert "_backend" in {field.name for field in dataclasses.fields(seam.StructuredOutputsParams)}


def test_sampling_parameters_say_which_generator_they_need_and_which_tokens_they_index(seam: Any) -> None:
    kinds = [seam.SamplingParams(temperature=0, seed=1), seam.SamplingParams(), seam.SamplingParams(seed=1)]
    wanted = [seam.SamplingType.GREEDY, seam.SamplingType.RANDOM, seam.SamplingType.RANDOM_SEED]
    assert [kind.sampling_type for kind in kinds] == wanted
    assert seam.SamplingParams(stop_token_ids=[3, 4]).all_stop_token_ids == {3, 4}
    assert seam.SamplingParams().bad_words_token_ids is None


def test_block_events_carry_whole_hashes_and_nothing_is_published_elsewhere(seam: Any) -> None:
    assert seam.BlockStored.__struct_fields__[0] == seam.BlockRemoved.__struct_fields__[0] == "block_hashes"
    assert seam.AllBlocksCleared.__struct_fields__ == ()
    assert get_args(seam.KVEventsConfig.__annotations__["publisher"]) == ("null", "zmq")
    assert load("envs").VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES is False


def test_engine_arguments_take_what_the_engine_sets(seam: Any) -> None:
    fields = {field.name for field in dataclasses.fields(seam.AsyncEngineArgs)}
    assert {"distributed_executor_backend", "kv_events_config", "worker_extension_cls"} <= fields
    assert {"tensor_parallel_size", "scheduling_policy", "kv_cache_memory_bytes"} <= fields


def test_an_adapter_is_known_by_name_number_and_path(seam: Any) -> None:
    assert seam.LoRARequest.__struct_fields__[:3] == ("lora_name", "lora_int_id", "lora_path")


# -- the wire


def test_one_message_holds_a_whole_request(seam: Any) -> None:
    params = seam.SamplingParams(seed=1, stop_token_ids=[5], min_tokens=2, max_tokens=9, logit_bias={3: 1.0})
    request = seam.EngineCoreRequest("r", [1, 2], None, params, None, 0.5, None, "salt", None, priority=-3)
    parts = seam.MsgpackEncoder(INLINE_BYTES).encode(request)
    assert len(parts) == 1
    read = seam.MsgpackDecoder(seam.EngineCoreRequest).decode(bytes(parts[0]))
    assert read.sampling_params == params
    assert (read.prompt_token_ids, read.cache_salt, read.priority) == ([1, 2], "salt", -3)


def test_nothing_is_unpickled(seam: Any) -> None:
    assert not load("envs").VLLM_ALLOW_INSECURE_SERIALIZATION
    pickled = b"\xc7\x04\x01" + b"I1\n."  # an extension of vLLM's pickle type
    with pytest.raises(NotImplementedError, match="Extension type"):
        seam.MsgpackDecoder().decode(pickled)
