"""What a pool node exports to Prometheus: its room, what became of blocks, and which paths reach its peers how fast."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shoal.instance.metrics_page import serve_page
from shoal.instance.pool.service import PoolService
from shoal.instance.pool.slots import Tier


class PoolMetrics(Collector):
    """Reads the service's present state at scrape time; owns nothing."""

    def __init__(self, service: PoolService) -> None:
        self.service = service

    def collect(self) -> list[Metric]:
        return [*self._blocks(), *self._paths()]

    def _blocks(self) -> list[Metric]:
        node = self.service.node
        with node.lock:
            ledger = node.ledger
            capacity, free = (
                dict(ledger.slots.capacity),
                {tier: len(queue) for tier, queue in ledger.slots.free.items()},
            )
            counts, tenants = dict(ledger.counts), {share.tenant: share.used for share in ledger.shares.values()}
            held = {"leased": ledger.leased, "hot": sum(share.hot.size for share in ledger.shares.values())}
        total = GaugeMetricFamily("shoal_pool_total_blocks", "Slots for blocks.", labels=["tier"])
        unused = GaugeMetricFamily("shoal_pool_free_blocks", "Slots that hold nothing.", labels=["tier"])
        for tier in Tier:
            total.add_metric([tier.name.lower()], capacity[tier])
            unused.add_metric([tier.name.lower()], free[tier])
        state = GaugeMetricFamily("shoal_pool_blocks", "Blocks that are leased, or used again (hot).", labels=["state"])
        for name, blocks in held.items():
            state.add_metric([name], blocks)
        largest = GaugeMetricFamily("shoal_pool_largest_tenant_blocks", "Blocks of the tenant with most of them.")
        largest.add_metric([], max(tenants.values(), default=0))
        events = CounterMetricFamily(
            "shoal_pool_block_events", "Blocks stored, leased, refused, evicted, expired, damaged.", labels=["event"]
        )
        for event, count in counts.items():
            events.add_metric([event], count)
        return [total, unused, state, largest, events]

    def _paths(self) -> list[Metric]:
        rate = GaugeMetricFamily("shoal_pool_path_gib_per_s", "Measured by the last probe.", labels=["peer", "path"])
        chosen = GaugeMetricFamily("shoal_pool_path_chosen", "1 for the path in use.", labels=["peer", "path"])
        falls = CounterMetricFamily("shoal_pool_path_falls", "Falls to another path.", labels=["peer", "path", "to"])
        for peer in list(self.service.peers.values()):
            for path, gib_per_s in dict(peer.rates.gib_per_s).items():
                rate.add_metric([peer.node_id, path], gib_per_s)
                chosen.add_metric([peer.node_id, path], float(path == peer.rates.chosen))
            for (path, to), count in dict(peer.rates.falls).items():
                falls.add_metric([peer.node_id, path, to or "none"], count)
        return [rate, chosen, falls]


def serve_pool_metrics(service: PoolService, host: str, first_port: int = 0) -> tuple[str, Any]:
    """Returns the URL and the HTTP server to shut down."""
    registry = CollectorRegistry()
    registry.register(PoolMetrics(service))
    return serve_page(registry, host, first_port)


__all__ = ["PoolMetrics", "serve_pool_metrics"]
