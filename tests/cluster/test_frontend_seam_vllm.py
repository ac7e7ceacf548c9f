"""The installed vLLM still has every name that the frontend uses, in the shape in which it uses it."""

import ast
import asyncio
import inspect
from pathlib import Path
from types import SimpleNamespace

import pytest

from shoal.cluster import frontend_seam as seam
from shoal.cluster.engine_client import ClusterClient
from shoal.cluster.journal import FINISH_OUTCOMES
from shoal.proto.codec import WireOutput, WireOutputs, WireRequest, decode, encode

pytestmark = pytest.mark.vllm

ROOT = Path(__file__).parents[2]


def parameters(callable_):
    return list(inspect.signature(callable_).parameters)


def test_this_is_the_vllm_that_everything_was_tried_on():
    assert seam.VLLM_VERSION.startswith("0.32.")


@pytest.mark.parametrize(
    ("callable_", "used"),
    [
        (seam.AsyncEngineArgs.from_cli_args, ["args"]),
        (seam.AsyncEngineArgs.create_engine_config, ["self"]),
        (seam.AsyncLLM.from_vllm_config, ["vllm_config", "stat_loggers", "disable_log_stats"]),
        (seam.build_app, ["args", "supported_tasks", "model_config"]),
        (seam.init_app_state, ["engine_client", "state", "args", "supported_tasks"]),
        (seam.get_hash_fn_by_name, ["hash_fn_name"]),
        (seam.init_none_hash, ["hash_fn"]),
        (seam.get_request_block_hasher, ["hash_block_size", "caching_hash_fn"]),
        (seam.Request.from_engine_core_request, ["request", "block_hasher"]),
        (
            seam.PrometheusStatLogger.record,
            ["self", "scheduler_stats", "iteration_stats", "mm_cache_stats", "engine_idx"],
        ),
        (seam.MsgpackEncoder, ["size_threshold"]),
    ],
    ids=lambda value: getattr(value, "__qualname__", None),
)
def test_what_we_call_takes_what_we_give_it(callable_, used):
    assert parameters(callable_)[: len(used)] == used or set(used) <= set(parameters(callable_))


def test_the_factory_that_is_swapped_is_a_static_method_that_async_llm_asks():
    factory = inspect.getattr_static(seam.EngineCoreClient, "make_async_mp_client")
    assert isinstance(factory, staticmethod)
    assert "make_async_mp_client" in inspect.getsource(seam.AsyncLLM.__init__)


CLOSED_ACTS = {  # of routes that the edge does not open: sleep, weights, profiling, elastic parallelism
    *("sleep_async", "wake_up_async", "is_sleeping_async", "release_kv_cache_memory_async"),
    *("pause_scheduler_async", "resume_scheduler_async", "is_scheduler_paused_async", "dp_engines_running"),
    *("get_weight_version_async", "set_weight_version_async", "compute_weight_checksums_async"),
    *("prepare_elastic_ep", "commit_elastic_ep", "handle_fault", "get_status", "get_kv_event_sources"),
    *("collective_rpc_async", "profile_async", "reset_mm_cache_async", "reset_encoder_cache_async"),
}


def test_our_client_has_all_that_async_llm_asks_of_its_engine_core():
    tree = ast.parse(inspect.getsource(inspect.getmodule(seam.AsyncLLM)))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("engine_core")
    }
    client = ClusterClient(SimpleNamespace(), SimpleNamespace())
    ours = used & {*vars(ClusterClient), *vars(client)}
    assert {"add_request_async", "get_output_async", "abort_requests_async", "shutdown"} <= ours
    assert used - ours <= CLOSED_ACTS


def test_our_clients_methods_take_what_the_stock_ones_take():
    for name, method in vars(ClusterClient).items():
        stock = vars(seam.EngineCoreClient).get(name)
        if not inspect.isfunction(method) or stock is None:
            continue
        assert asyncio.iscoroutinefunction(method) == asyncio.iscoroutinefunction(stock), name
        kinds = {p.kind for p in inspect.signature(method).parameters.values()}
        if inspect.Parameter.VAR_POSITIONAL not in kinds:
            assert parameters(method) == parameters(stock), name


def test_what_fake_engines_say_is_what_vllm_reads():
    said = WireOutputs(outputs=[WireOutput("r", [1, 2], finish_reason=1, stop_reason=7)])
    read = seam.MsgpackDecoder(seam.EngineCoreOutputs).decode(encode(said))
    (output,) = read.outputs
    assert (output.request_id, output.new_token_ids, output.finish_reason, output.stop_reason) == (
        "r",
        [1, 2],
        seam.FinishReason.LENGTH,
        7,
    )
    output.events, read.engine_index, read.timestamp = None, 0, 1.0  # what the frontend writes into them


def test_a_request_is_one_buffer_that_fake_engines_read_too():
    fields = {name: None for name in inspect.signature(seam.EngineCoreRequest).parameters}
    fields |= {"request_id": "r", "prompt_token_ids": [1, 2], "arrival_time": 0.5, "cache_salt": "s", "client_index": 0}
    required = {
        name: fields[name]
        for name, p in inspect.signature(seam.EngineCoreRequest).parameters.items()
        if p.default is inspect.Parameter.empty or name in ("client_index",)
    }
    request = seam.EngineCoreRequest(**required)
    buffers = seam.MsgpackEncoder(1 << 30).encode(request)
    assert len(buffers) == 1
    assert decode(WireRequest, bytes(buffers[0])).prompt_token_ids == [1, 2]


def test_ends_have_the_numbers_that_the_journal_knows():
    assert {None, *(int(reason) for reason in seam.FinishReason)} == FINISH_OUTCOMES.keys()
    for reason in seam.FinishReason:
        ours = {"abort": "aborted"}.get(str(reason), str(reason))
        assert FINISH_OUTCOMES[reason].value == ours


def test_every_name_of_the_seam_is_used_and_the_seam_is_the_only_door():
    text = "".join(path.read_text() for path in (ROOT / "cluster").rglob("*.py"))
    unused = [name for name in seam.__all__ if text.count(name) < 3]  # imported, listed, used
    assert not unused
