"""Looks at the fleet at even intervals: what no request's own times tell. A plug-in of the simulation."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from shoal.bench.sim.simulation import Simulation

MAX_SAMPLES = 1000


class Sample(NamedTuple):
    """Over instances: requests held (running or waiting), and the share of KV blocks taken."""

    at_s: float
    instances: int
    mean_requests: float
    max_requests: int
    mean_kv_use: float
    max_kv_use: float


class Sampler:
    """Owns its samples. When there are too many it drops every other one and looks half as often from then on."""

    def __init__(self, every_s: float = 0.5) -> None:
        self.every_s = every_s
        self.samples: list[Sample] = []

    def start(self, simulation: Simulation) -> None:
        self._simulation = simulation
        simulation.events.at(simulation.events.now_s, self._look)

    def _look(self, now_s: float, _: None) -> None:
        fleet = list(self._simulation.instances.values())
        held = [len(instance.requests) for instance in fleet] or [0]
        use = [instance.kv_use for instance in fleet] or [0.0]
        self.samples.append(Sample(now_s, len(fleet), sum(held) / len(held), max(held), sum(use) / len(use), max(use)))
        if len(self.samples) >= MAX_SAMPLES:
            del self.samples[1::2]
            self.every_s *= 2
        self._simulation.events.at(now_s + self.every_s, self._look)

    def max_over_mean(self) -> float:
        """Of requests per instance, averaged over time with the load as weight: 1 is an even load."""
        total = sum(sample.mean_requests for sample in self.samples)
        return sum(sample.max_requests for sample in self.samples) / total if total else 1.0


__all__ = ["MAX_SAMPLES", "Sample", "Sampler"]
