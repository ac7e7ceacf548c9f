"""Every name of vLLM's that the frontend uses, imported here and nowhere else in cluster/, with the two small acts that
need private ones.

tests/cluster/test_frontend_seam_vllm.py checks each name and signature against the installed package.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import get_none_hash_seed, get_request_block_hasher, init_none_hash
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, EngineCoreRequest, FinishReason
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.core_client import EngineCoreClient
from vllm.v1.metrics.loggers import PrometheusStatLogger
from vllm.v1.request import Request
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder
from vllm.version import __version__ as VLLM_VERSION


def parse_flags(flags: list[str]) -> Namespace:
    return make_arg_parser(FlexibleArgumentParser()).parse_args(flags)


class FrontendStats(PrometheusStatLogger):
    """vLLM's own request metrics without the scheduler's: those come once, from the instance that has the scheduler."""

    SCHEDULER_GAUGES = (
        "gauge_scheduler_running",
        "gauge_scheduler_waiting",
        "gauge_kv_cache_usage",
        "counter_prefix_cache_queries",
        "counter_prefix_cache_hits",
    )

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        super().record(None, iteration_stats, mm_cache_stats=mm_cache_stats, engine_idx=0)


def llm_over(client: Any, args: Namespace) -> AsyncLLM:
    """An unmodified AsyncLLM over our client. AsyncLLM takes no client, so the factory is swapped while it is built.

    Call it on the loop that will serve: AsyncLLM starts its output task there.
    """
    config = AsyncEngineArgs.from_cli_args(args).create_engine_config()
    config.cache_config.num_gpu_blocks = 1  # the pool is the instances'; AsyncLLM only reports this number
    stock = EngineCoreClient.make_async_mp_client
    EngineCoreClient.make_async_mp_client = staticmethod(lambda **_: client)
    try:
        return AsyncLLM.from_vllm_config(config, stat_loggers=[FrontendStats], disable_log_stats=True)
    finally:
        EngineCoreClient.make_async_mp_client = staticmethod(stock)


async def app_over(llm: AsyncLLM, args: Namespace) -> Any:
    """vLLM's OpenAI application (ASGI) over `llm`."""
    tasks = await llm.get_supported_tasks()
    app = build_app(args, tasks, llm.model_config)
    await init_app_state(llm, app.state, args, tasks)
    app.state.server = SimpleNamespace(should_exit=False)  # vLLM's engine-error handler reads it
    return app


def block_hasher(llm_config: Any) -> Callable[[EngineCoreRequest], tuple[bytes, ...]]:
    """The chain of hashes of a request's full prompt blocks, as its engine will compute it."""
    hash_function = get_hash_fn_by_name(llm_config.cache_config.prefix_caching_hash_algo)
    init_none_hash(hash_function)
    hasher = get_request_block_hasher(llm_config.cache_config.block_size, hash_function)
    return lambda request: tuple(Request.from_engine_core_request(request, hasher).block_hashes)


def hash_seed() -> str:
    return get_none_hash_seed().encode().hex()


__all__ = [
    "VLLM_VERSION",
    "AsyncLLM",
    "EngineCoreClient",
    "EngineCoreOutput",
    "EngineCoreOutputs",
    "EngineCoreRequest",
    "FinishReason",
    "FrontendStats",
    "MsgpackDecoder",
    "MsgpackEncoder",
    "app_over",
    "block_hasher",
    "hash_seed",
    "llm_over",
    "parse_flags",
]
