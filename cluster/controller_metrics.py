"""What the controller exports: who is a member, who died how often, whose heartbeat is how old."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shoal.cluster.controller import Controller
from shoal.cluster.member import InstanceState


class ControllerMetrics(Collector):
    """Reads the controller's present state at scrape time; owns nothing."""

    def __init__(self, controller: Controller, model: str) -> None:
        self.controller, self.model = controller, model

    def collect(self) -> Iterator[Metric]:
        slots, now_s = list(self.controller.slots.values()), self.controller.clock()
        counts = Counter(slot.state for slot in slots)
        states = GaugeMetricFamily("shoal_controller_instances", "Instances by state.", labels=["model_name", "state"])
        for state in InstanceState:
            states.add_metric([self.model, state.value], counts[state])
        yield states
        ages = GaugeMetricFamily(
            "shoal_controller_heartbeat_age_seconds", "Since its last heartbeat.", labels=["model_name", "engine"]
        )
        starts = CounterMetricFamily(
            "shoal_controller_starts", "Processes started for this instance.", labels=["model_name", "engine"]
        )
        for slot in slots:
            if slot.state in (InstanceState.READY, InstanceState.FENCED):
                ages.add_metric([self.model, slot.id], now_s - slot.heartbeat_s)
            starts.add_metric([self.model, slot.id], slot.incarnation)
        yield ages
        yield starts


__all__ = ["ControllerMetrics"]
