"""The worker's half of the connector: copies blocks between this worker's KV cache and the node's pool, on threads of
its own, and reports what became of each copy.

Every load ends, well or badly, and is reported only when nothing writes into its blocks any longer: a request that
waited in the queue beyond LOAD_S is reported as failed without a copy. Owns the pool client of this worker.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch

from shoal.instance.kv_connector_scheduler import Done, Load, Save
from shoal.instance.pool.arena import Bytes
from shoal.instance.pool.client import Moved, NodePool
from shoal.instance.pool.key import Space, block_keys
from shoal.proto.errors import StartFailed
from shoal.proto.tracing import begin

LOAD_S = 5.0
SAVE_S = 5.0


class HostBlocks:
    """The KV cache of one worker as bytes of blocks. On CPU: views, nothing is copied here."""

    def __init__(self, caches: Mapping[str, torch.Tensor]) -> None:
        """Raises StartFailed for a cache that cannot be seen so."""
        for name, cache in caches.items():
            if cache.device.type != "cpu" or not cache.is_contiguous():
                raise StartFailed(f"pool: the KV cache of {name} is on {cache.device}, or in pieces: not offered there")
        self.layers = [cache.view(cache.shape[0], -1).view(torch.uint8).numpy() for cache in caches.values()]
        self.block_bytes = sum(layer.shape[1] for layer in self.layers)
        shapes = sorted({tuple(cache.shape[1:]) for cache in caches.values()})
        self.shape = f"{len(caches)} layers of {shapes}"

    def pieces(self, block_id: int) -> list[Bytes]:
        return [layer[block_id] for layer in self.layers]


class PoolWorker:
    def __init__(self, blocks: HostBlocks) -> None:
        self.blocks = blocks
        self.lock = threading.Lock()
        self.loaded: set[str] = set()
        self.failed_blocks: set[int] = set()
        self.report = Done()
        self._pool: NodePool | None = None
        self._space: Space | None = None
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="pool-load")
        self._saver = ThreadPoolExecutor(1, thread_name_prefix="pool-save")

    def attach(self, pool: NodePool, space: Space) -> None:
        self._pool, self._space = pool, space

    def start(self, loads: Sequence[Load], saves: Sequence[Save]) -> None:
        for load in loads:
            self._loader.submit(self._load, load, time.monotonic())
        for save in saves:
            self._saver.submit(self._save, save)

    def _load(self, load: Load, asked_s: float) -> None:
        start_s = time.monotonic()
        span = begin("pool load", load.traceparent, request=load.request_id, blocks=len(load.hashes))
        late = start_s - asked_s > LOAD_S
        moved = _nothing(load) if late else self._copy(load, partial(_fetch, traceparent=span.traceparent))
        span.note(bytes=moved.moved_bytes)
        span.end()
        failed = {block_id for block_id, good in zip(load.block_ids, moved.blocks, strict=True) if not good}
        with self.lock:
            self.loaded.add(load.request_id)
            self.failed_blocks |= failed
            self.report.loads.append((load.request_id, 1e3 * (time.monotonic() - start_s), moved.moved_bytes))

    def _save(self, save: Save) -> None:
        moved = self._copy(save, lambda pool, keys, blocks: pool.save(save.salt, keys, blocks, wait_s=SAVE_S))
        with self.lock:
            self.report.saves[save.number] = [moved.blocks]

    def _copy(self, job: Load | Save, act: Callable[[NodePool, list[bytes], list[list[Bytes]]], Moved]) -> Moved:
        if self._pool is None or self._space is None:
            return _nothing(job)
        try:
            keys = block_keys(self._space.root(job.salt), job.hashes)
            return act(self._pool, keys, [self.blocks.pieces(block_id) for block_id in job.block_ids])
        except Exception as exc:  # whatever broke: it must be reported, or the request waits for ever
            print(f"pool: {type(exc).__name__}: {exc}", flush=True)
            return _nothing(job)

    def take_loaded(self) -> set[str]:
        with self.lock:
            loaded, self.loaded = self.loaded, set()
        return loaded

    def take_failed_blocks(self) -> set[int]:
        with self.lock:
            failed, self.failed_blocks = self.failed_blocks, set()
        return failed

    def take_report(self) -> Done:
        with self.lock:
            report, self.report = self.report, Done()
        return report

    def close(self) -> None:
        for threads in (self._loader, self._saver):
            threads.shutdown(wait=True, cancel_futures=True)
        if self._pool is not None:
            self._pool.close()


def _fetch(pool: NodePool, keys: list[bytes], blocks: list[list[Bytes]], traceparent: str) -> Moved:
    return pool.load(keys, blocks, wait_s=LOAD_S, traceparent=traceparent)


def _nothing(job: Any) -> Moved:
    return Moved((False,) * len(job.hashes))


__all__ = ["LOAD_S", "HostBlocks", "PoolWorker"]
