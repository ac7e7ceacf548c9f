"""What one instance exports to Prometheus: its own engine's gauges and counters, under vLLM's names where vLLM defines
them.

Frontends do not export these, so that a sum over all targets counts each instance once.
"""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shoal.instance.metrics_page import serve_page
from shoal.instance.migration.desk import MoveDesk
from shoal.instance.server import InstanceServer

LABELS = ["model_name", "engine"]


class InstanceMetrics(Collector):
    """Reads the server's present state at scrape time; owns nothing."""

    def __init__(self, server: InstanceServer) -> None:
        self.server = server

    def collect(self) -> list[Metric]:
        server, load = self.server, self.server.load
        watchers = list(server.watchers.values())  # a copy: the event loop changes them meanwhile
        outboxes = [len(watcher.frames) for watcher in watchers]
        labels = [server.engine.info.model, server.instance_id]
        used = 1.0 - load.free_blocks / max(1, load.total_blocks)
        gauges = {
            "vllm:num_requests_running": ("Requests in the running batch.", load.running),
            "vllm:num_requests_waiting": ("Requests waiting for the engine.", load.waiting),
            "vllm:kv_cache_usage_perc": ("Used share of KV blocks; 1 is all.", used),
            "shoal_instance_queued_prefill_tokens": (
                "Prompt tokens of waiting requests, not cached.",
                load.queued_prefill_tokens,
            ),
            "shoal_instance_free_blocks": ("KV blocks free or evictable.", load.free_blocks),
            "shoal_instance_total_blocks": ("KV blocks.", load.total_blocks),
            "shoal_instance_step_seconds": ("Median of recent engine steps.", load.step_ms / 1e3),
            "shoal_instance_held_requests": (
                "Requests of this instance, kept ones included.",
                len(server.holdings.by_engine_id),
            ),
            "shoal_instance_watchers": ("Attached streams.", len(outboxes)),
            "shoal_instance_longest_outbox_frames": (
                "Frames waiting for the slowest watcher.",
                max(outboxes, default=0),
            ),
        }
        counters = {
            "shoal_instance_steps": ("Engine steps.", server.stepper.step),
            "shoal_instance_block_changes": ("KV blocks stored or removed.", server.blocks.sequence),
        }
        families: list[Metric] = []
        for name, (text, value) in gauges.items():
            gauge = GaugeMetricFamily(name, text, labels=LABELS)
            gauge.add_metric(labels, value)
            families.append(gauge)
        for name, (text, value) in counters.items():
            counter = CounterMetricFamily(name, text, labels=LABELS)
            counter.add_metric(labels, value)
            families.append(counter)
        ours = dict(zip(LABELS, labels, strict=True))
        for family in server.stepper.took.collect():
            family.samples = [sample._replace(labels={**ours, **sample.labels}) for sample in family.samples]
            families.append(family)
        return [*families, *_migrations(server.desk, labels)]


def _migrations(desk: MoveDesk, labels: list[str]) -> list[Metric]:
    """Of moves away from here. A move that was refused at once counts too."""
    counts = desk.counts
    ended = CounterMetricFamily("shoal_migrations", "Moves that ended.", labels=[*LABELS, "reason", "outcome"])
    for key, number in list(counts.ended.items()):
        ended.add_metric([*labels, *key], number)
    aborted = CounterMetricFamily("shoal_migrations_aborted", "Moves that moved nothing.", labels=[*LABELS, "reason"])
    for outcome, number in list(counts.aborted.items()):
        aborted.add_metric([*labels, outcome], number)
    families: list[Metric] = [ended, aborted]
    sums = {
        "shoal_migration_bytes": ("Bytes of KV blocks sent.", counts.sent_bytes),
        "shoal_migration_stages": ("Rounds of copying.", counts.stages),
        "shoal_migration_copy_seconds": ("Time in which blocks were read beside the batch.", desk.means.budget.copy_s),
    }
    for name, (text, value) in sums.items():
        family = CounterMetricFamily(name, text, labels=LABELS)
        family.add_metric(labels, value)
        families.append(family)
    under_way = GaugeMetricFamily("shoal_migrations_under_way", "Moves now, by direction.", labels=[*LABELS, "side"])
    under_way.add_metric([*labels, "out"], len(desk.departures))
    under_way.add_metric([*labels, "in"], len(desk.arrivals))
    return [*families, under_way]


def serve_metrics(server: InstanceServer, host: str, first_port: int = 0) -> tuple[str, Any]:
    """Returns the URL and the HTTP server to shut down."""
    registry = CollectorRegistry()
    registry.register(InstanceMetrics(server))
    return serve_page(registry, host, first_port)


__all__ = ["InstanceMetrics", "serve_metrics"]
