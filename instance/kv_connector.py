"""vLLM's connector to the node's pool: vLLM's calls, handed on to the scheduler's half or the worker's.

Until `attach` it finds nothing and saves nothing, so an engine starts, warms up and serves without a pool. A load that
fails is recomputed (`kv_load_failure_policy="recompute"`); the layer hooks stay empty.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple, dataclass
from itertools import islice
from typing import Any

from shoal.instance.inner_tls import PLAIN, InnerTls
from shoal.instance.kv_connector_scheduler import NET_BLOCKS, Done, Load, PoolScheduler, Save
from shoal.instance.kv_connector_worker import HostBlocks, PoolWorker
from shoal.instance.pool.client import NodePool, PoolClient
from shoal.instance.pool.key import Space, block_keys
from shoal.instance.pool.seal import Sealer
from shoal.instance.vllm_seam import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorWorkerMetadata,
    KVTransferConfig,
    SupportsHMA,
    get_block_hash,
    get_kv_transfer_group,
)
from shoal.proto.errors import Unavailable
from shoal.proto.v1 import pool_pb2 as pb

MATCH_S = 0.25


@dataclass(frozen=True, slots=True)
class PoolWords:
    """What an engine must know to use a pool. `token`: of the cluster; it also keys the blocks' checksums. `weights`:
    digest of the weight files.
    """

    address: str
    token: str
    model: str
    weights: str
    hash_seed: str
    tls: InnerTls = PLAIN


class PoolMetadata(KVConnectorMetadata):
    def __init__(self, loads: list[Load], saves: list[Save]) -> None:
        self.loads, self.saves = loads, saves


class PoolReport(KVConnectorWorkerMetadata):
    def __init__(self, done: Done) -> None:
        self.done = done

    def aggregate(self, other: Any) -> PoolReport:
        return PoolReport(self.done.merge(other.done))


def transfer_config() -> KVTransferConfig:
    return KVTransferConfig(
        kv_connector="PoolConnector",
        kv_connector_module_path="shoal.instance.kv_connector",
        kv_role="kv_both",
        kv_load_failure_policy="recompute",
    )


class PoolConnector(KVConnectorBase_V1, SupportsHMA):
    """One object in the scheduler, one in each worker; under the `uni` executor they share a process."""

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self.config, self.is_scheduler = vllm_config, role is KVConnectorRole.SCHEDULER
        self.worker: PoolWorker | None = None
        self.scheduler: PoolScheduler | None = None
        self.requests: dict[str, Any] = {}
        self.block_pool: Any = None
        self.step_s, self.prefill_tokens = 0.0, 0

    @property
    def requires_kv_delivery(self) -> bool:
        """A save that is dropped is a later miss; vLLM would throw sampled tokens away to avoid that."""
        return False

    # -- attaching, once the engine is up

    def attach_worker(self, words: PoolWords, rank: int) -> Space:
        """Raises Unavailable."""
        assert self.worker is not None
        cache, parallel = self.config.cache_config, self.config.parallel_config
        space = Space(
            model=words.model,
            weights=words.weights,
            dtype=f"{self.config.model_config.dtype}/{cache.cache_dtype}",
            layout=f"{cache.kv_cache_layout} {self.worker.blocks.shape}",
            block_size=cache.block_size,
            tp_rank=rank,
            tp_size=parallel.tensor_parallel_size,
            hash_seed=words.hash_seed,
        )
        self.worker.attach(NodePool(PoolClient(words.address, words.token, words.tls), Sealer(words.token)), space)
        return space

    def attach_scheduler(self, words: PoolWords, space: Space, block_bytes: int) -> None:
        """`space`: of the first rank, whose blocks stand for all ranks'."""
        client = PoolClient(words.address, words.token, words.tls)
        self.asker = ThreadPoolExecutor(1, thread_name_prefix="pool-ask")

        def matched(salt: str, hashes: Sequence[bytes]) -> int:
            try:
                return client.call("Match", pb.Run(keys=block_keys(space.root(salt), hashes)), wait_s=MATCH_S).blocks
            except Unavailable:
                return 0

        def ask(salt: str, hashes: Sequence[bytes]) -> Future[int]:
            return self.asker.submit(matched, salt, hashes)

        self.client = client
        self.scheduler = PoolScheduler(
            ask,
            self.block_pool,
            block_size=self.config.cache_config.block_size,
            block_bytes=block_bytes,
            budget_tokens=self.config.scheduler_config.max_num_batched_tokens,
            ranks=self.config.parallel_config.tensor_parallel_size,
        )

    # -- worker

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        self.worker = PoolWorker(HostBlocks(kv_caches))

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        metadata = self._get_connector_metadata()
        if self.worker is not None:
            self.worker.start(metadata.loads, metadata.saves)

    def wait_for_layer_load(self, layer_name: str) -> None:
        pass

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None:
        pass

    def wait_for_save(self) -> None:
        pass

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        return None, (self.worker.take_loaded() or None) if self.worker else None

    def get_block_ids_with_load_errors(self) -> set[int]:
        return self.worker.take_failed_blocks() if self.worker else set()

    def build_connector_worker_meta(self) -> PoolReport | None:
        report = self.worker.take_report() if self.worker else Done()
        return PoolReport(report) if report.loads or report.saves else None

    # -- scheduler

    def bind_gpu_block_pool(self, gpu_block_pool: Any) -> None:
        self.block_pool = gpu_block_pool

    def on_new_request(self, request: Any) -> None:
        self.requests[request.request_id] = request

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        return self.scheduler.matched(request, num_computed_tokens) if self.scheduler else (0, False)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        if self.scheduler is not None:
            self.scheduler.allocated(request, blocks.get_block_ids()[0], num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> PoolMetadata:
        if self.scheduler is None:
            return PoolMetadata([], [])
        self._time_step(scheduler_output)
        for request_id in scheduler_output.num_scheduled_tokens:
            if (request := self.requests.get(request_id)) is not None:
                self._seal(request, self._kv_cache_manager.get_block_ids(request_id)[0])
        queue = self.block_pool.free_block_queue
        self.scheduler.cast_net(list(islice(queue.iter_blocks_after(None), NET_BLOCKS)), get_block_hash)
        return PoolMetadata(*self.scheduler.take_work())

    def _time_step(self, scheduler_output: Any) -> None:
        """From plan to plan is one step, where the one before computed something."""
        now_s, tokens = time.monotonic(), scheduler_output.num_scheduled_tokens
        if self.step_s:
            self.scheduler.speeds.saw_step(1e3 * (now_s - self.step_s), self.prefill_tokens)
        self.step_s = now_s if tokens else 0.0
        self.prefill_tokens = sum(count for count in tokens.values() if count > 1)

    def _seal(self, request: Any, block_ids: Sequence[int]) -> None:
        """What is in flight is not computed yet, though vLLM counts it."""
        computed = request.num_computed_tokens - request.num_in_flight_tokens
        self.scheduler.sealed(request, block_ids, computed)

    def update_connector_output(self, connector_output: Any) -> None:
        report = connector_output.kv_connector_worker_meta
        if self.scheduler is not None and report is not None:
            self.scheduler.done(report.done)

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        self.requests.pop(request.request_id, None)
        if self.scheduler is not None:
            self._seal(request, block_ids[0])
            self.scheduler.finished(request)
        return False, None

    def has_pending_push_work(self) -> bool:
        return self.scheduler is not None and self.scheduler.busy

    def shutdown(self) -> None:
        if self.worker is not None:
            self.worker.close()
        if self.scheduler is not None:
            self.asker.shutdown(wait=True, cancel_futures=True)
            self.client.close()


# -- by collective_rpc, in each worker


def block_bytes_of(worker: Any) -> int:
    return get_kv_transfer_group().worker.blocks.block_bytes


def attach_in(worker: Any, words: tuple[Any, ...]) -> tuple[Any, ...]:
    *texts, tls = words
    return astuple(get_kv_transfer_group().attach_worker(PoolWords(*texts, InnerTls(*tls)), worker.rank))


def attach_pool(core: Any, words: PoolWords) -> None:
    """Raises Unavailable where the pool does not answer."""
    spaces = core.collective_rpc(attach_in, args=(astuple(words),))
    block_bytes = core.collective_rpc(block_bytes_of)[0]
    core.scheduler.connector.attach_scheduler(words, Space(*spaces[0]), block_bytes)


__all__ = ["PoolConnector", "PoolWords", "attach_pool", "block_bytes_of", "transfer_config"]
