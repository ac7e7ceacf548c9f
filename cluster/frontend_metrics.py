"""What one frontend exports: its own requests. vLLM's request metrics under vLLM's names, ours as `shoal_frontend_*`.

Gauges of the engine are left out: instances export them, each once.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from shoal.cluster.dispatcher import Dispatcher
from shoal.cluster.handovers import PAUSE_BUCKETS_S
from shoal.cluster.journal import Outcome, Verdict
from shoal.cluster.link import LinkEnd

OF_THE_ENGINE = (
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:prefix_cache_queries",
    "vllm:prefix_cache_hits",
    "vllm:num_preemptions",
)


class FrontendRegistry:
    """vLLM's registry without the engine's gauges, and the dispatcher's present state. Read at scrape time."""

    def __init__(self, dispatcher: Dispatcher, model: str, frontend_id: str) -> None:
        self.dispatcher = dispatcher
        self.labels = {"model_name": model, "frontend": frontend_id}

    def collect(self) -> Iterator[Metric]:
        for family in REGISTRY.collect():
            if not family.name.startswith(OF_THE_ENGINE):
                yield family
        yield from self._ours()

    def _ours(self) -> Iterator[Metric]:
        dispatcher, now_s = self.dispatcher, self.dispatcher.clock()
        yield self._gauge("open_requests", "Requests not ended yet.", len(dispatcher.flights))
        yield self._gauge("queued_requests", "Requests without a place.", dispatcher.admission.queued_requests)
        yield self._gauge(
            "admitted_tokens", "Prompt tokens of requests without a first token.", dispatcher.admission.tokens
        )
        yield self._gauge("linked_instances", "Instances with an open stream.", len(dispatcher.links))
        ages = GaugeMetricFamily(
            "shoal_frontend_view_age_seconds", "Age of the last report.", labels=[*self.labels, "engine"]
        )
        for candidate in dispatcher.view.candidates(now_s):
            ages.add_metric([*self.labels.values(), candidate.info.id], candidate.age_s)
        yield ages
        for family in dispatcher.ledgers.metrics.collect():
            family.samples = [s._replace(labels={**self.labels, **s.labels}) for s in family.samples]
            yield family
        outcomes = CounterMetricFamily("shoal_frontend_requests", "Ended requests.", labels=[*self.labels, "outcome"])
        for outcome in Outcome:
            outcomes.add_metric([*self.labels.values(), outcome.value], dispatcher.journal.outcomes[outcome])
        yield outcomes
        verdicts = CounterMetricFamily(
            "shoal_frontend_outputs", "Outputs judged by the journal.", labels=[*self.labels, "verdict"]
        )
        for verdict in Verdict:
            verdicts.add_metric([*self.labels.values(), verdict.value], dispatcher.journal.verdicts[verdict])
        yield verdicts
        moves = CounterMetricFamily(
            "shoal_frontend_failovers", "Requests moved off a lost instance.", labels=list(self.labels)
        )
        moves.add_metric(list(self.labels.values()), dispatcher.failovers)
        yield moves
        ends = CounterMetricFamily(
            "shoal_frontend_link_ends", "Streams to instances that ended, by sign.", labels=[*self.labels, "why"]
        )
        for why in LinkEnd:
            ends.add_metric([*self.labels.values(), why.value], dispatcher.link_ends[why])
        yield ends
        yield from self._handovers()
        yield from self._learned()

    def _learned(self) -> Iterator[Metric]:
        """Learned weights; nothing while there are none."""
        pilot, values = self.dispatcher.pilot, list(self.labels.values())
        if pilot.rails is None:
            return
        counts = GaugeMetricFamily(
            "shoal_router_learned", "What learned weights did and what held them back.", labels=[*self.labels, "count"]
        )
        for name, number in pilot.counts().items():
            counts.add_metric([*values, name], number)
        yield counts
        stage = GaugeMetricFamily(
            "shoal_router_rollout", "1: where the rollout stands.", labels=[*self.labels, "stage", "version", "rail"]
        )
        held = pilot.rails.holding.value if pilot.rails.holding else ""
        stage.add_metric([*values, pilot.rollout.stage.value, pilot.rollout.version, held], 1)
        yield stage

    def _handovers(self) -> Iterator[Metric]:
        counts, values = self.dispatcher.handovers.counts, list(self.labels.values())
        handovers = CounterMetricFamily(
            "shoal_frontend_handovers",
            "Live migrations, by the owner's verdict.",
            labels=[*self.labels, "reason", "verdict"],
        )
        verdicts = {"committed": counts.committed, "denied": counts.denied, "resubmitted": counts.resubmitted}
        for verdict, by_reason in verdicts.items():
            for reason, number in by_reason.items():
                handovers.add_metric([*values, reason, verdict], number)
        yield handovers
        pauses = HistogramMetricFamily(
            "shoal_migration_pause_seconds",
            "Gap that a client saw between two tokens of a moved request.",
            labels=list(self.labels),
        )
        bounds = [*(f"{bound_s:g}" for bound_s in PAUSE_BUCKETS_S), "+Inf"]
        buckets = list(zip(bounds, accumulate(counts.pauses), strict=True))
        pauses.add_metric(values, buckets, sum_value=counts.pause_sum_s)
        yield pauses

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        gauge = GaugeMetricFamily(f"shoal_frontend_{name}", text, labels=list(self.labels))
        gauge.add_metric(list(self.labels.values()), value)
        return gauge


__all__ = ["FrontendRegistry"]
