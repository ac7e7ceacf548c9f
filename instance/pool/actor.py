"""The pool process of a node, as Ray runs it: opened by the first instance that knows its block size, there until the
cluster ends, whatever becomes of the instances.

A plain class without Ray in it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

from shoal.instance.inner_tls import InnerTls
from shoal.instance.pool.metrics import serve_pool_metrics
from shoal.instance.pool.node import PoolNode, PoolSizes
from shoal.instance.pool.path_nixl import NixlAgent
from shoal.instance.pool.service import PoolService, serve_pool, stop_pool
from shoal.instance.trace_start import start_tracing
from shoal.proto.config import ClusterConfig, PoolConfig
from shoal.proto.errors import StartFailed, Unavailable


def pool_sizes(pool: PoolConfig, slot_bytes: int) -> PoolSizes:
    """At least one block to a segment, and one segment; what does not fill a segment is not used."""
    slots = max(1, pool.segment_bytes // slot_bytes)
    segments, disk = (size // (slots * slot_bytes) for size in (pool.memory_bytes, pool.disk_bytes))
    return PoolSizes(slot_bytes, slots, max(1, segments), disk, pool.disk_folder if disk else None)


def quotas(pool: PoolConfig, sizes: PoolSizes) -> dict[str, int]:
    """Salt -> blocks. Whoever is not named may use all."""
    blocks = sizes.memory_segments * sizes.segment_slots
    return {salt: max(1, int(share * blocks)) for salt, share in pool.shares.items()}


class PoolActor:
    def __init__(self, config_json: str, token: str, node_id: str) -> None:
        self.config, self.token, self.node_id = ClusterConfig.model_validate_json(config_json), token, node_id
        self.lock = asyncio.Lock()
        self.service: PoolService | None = None
        self.address, self.metrics_url = "", ""
        self.server: Any = None
        self.metrics_server: Any = None
        logging.getLogger("shoal.pool").setLevel(logging.INFO)

    async def open(self, slot_bytes: int) -> str:
        """The address to use it at. Raises StartFailed for another block size than the first one's, Overloaded where
        there is no room for it.
        """
        async with self.lock:
            if self.service is None:
                await asyncio.to_thread(self._open, slot_bytes)
            assert self.service is not None
            if self.service.node.sizes.slot_bytes != slot_bytes:
                sizes = f"{self.service.node.sizes.slot_bytes} bytes, given {slot_bytes}"
                raise StartFailed(f"pool of {self.node_id}: its blocks have {sizes}")
            return self.address

    def _open(self, slot_bytes: int) -> None:
        pool, host = self.config.pool, self.config.host
        sizes, tls = pool_sizes(pool, slot_bytes), InnerTls.of(self.config.tls)
        node = PoolNode(self.node_id, sizes, self.token, quotas=quotas(pool, sizes))
        service = PoolService(node, self.token, nixl=self._nixl(), offered=pool.transports, tls=tls)
        self.address, self.server = serve_pool(service, host)
        self.metrics_url, self.metrics_server = serve_pool_metrics(service, host, self.config.metrics_port)
        self.service = service
        self.end_tracing = start_tracing(self.config.tracing, "pool", self.node_id)

    def _nixl(self) -> NixlAgent | None:
        try:
            return NixlAgent(f"{self.node_id}-{os.getpid()}") if "nixl" in self.config.pool.transports else None
        except Unavailable as exc:
            logging.getLogger("shoal.pool").warning("%s: not offered", exc)
            return None

    async def where(self) -> tuple[str, str]:
        """(node id, address); the address is empty until it was opened."""
        return self.node_id, self.address

    async def set_peers(self, addresses: dict[str, str]) -> None:
        if self.service is not None:
            self.service.set_peers(addresses)

    async def stop(self) -> None:
        if self.service is not None:
            self.metrics_server.shutdown()
            self.metrics_server.server_close()
            await asyncio.to_thread(stop_pool, self.service, self.server)
            await asyncio.to_thread(self.end_tracing)


__all__ = ["PoolActor", "pool_sizes", "quotas"]
