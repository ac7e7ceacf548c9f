"""One simulated cluster: frontends, instances, the wires between them, a workload, and whatever else is plugged in.

Owns the wiring and the decision log's hash; each part owns its own state. The same arguments give the same run, event
for event. A plug-in (a sampler, a planner with its moves) is anything with `start`: it takes what it needs from the
simulation, asks `events` for its own turns, and acts on instances through `ask`, which is between two of their steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from random import Random
from typing import Protocol

from shoal.bench.sim.events import Events
from shoal.bench.sim.frontend import SimFrontend
from shoal.bench.sim.instance import SimInstance
from shoal.bench.sim.links import Links
from shoal.bench.sim.request import End, SimRequest, Workload
from shoal.bench.sim.results import Results
from shoal.instance.step_model import StepModel
from shoal.instance.step_time import StepTime
from shoal.proto.config import AdmissionConfig
from shoal.router.contract import InstanceInfo, Role
from shoal.router.foreseer import Foreseer
from shoal.router.place import Policy
from shoal.router.view import Standing


class Plugin(Protocol):
    def start(self, simulation: Simulation) -> None:
        """Before the first arrival."""


class Simulation:
    """`hop_s`: one way between frontend and instance. `report_delay_s`: on top of it, for reports. `foreseer`: makes
    what each frontend learns with."""

    def __init__(
        self,
        workload: Workload,
        *,
        policy: Policy,
        frontends: int = 1,
        admission: AdmissionConfig,
        block_size: int,
        hop_s: float = 0.0,
        report_delay_s: float = 0.0,
        links: Links | None = None,
        seed: int = 0,
        fast: bool = True,
        foreseer: Callable[[], Foreseer] = lambda: Foreseer(None),
    ) -> None:
        self.workload, self.hop_s, self.report_delay_s, self.fast = workload, hop_s, report_delay_s, fast
        self.events, self.results = Events(), Results()
        self.links = links or Links(bytes_per_s=10e9)
        self.instances: dict[str, SimInstance] = {}
        self.decisions = 0
        self._log = blake2b(digest_size=16)
        self._arrivals: Iterator[SimRequest] = iter(())
        self._open = 0
        self._arrived = 0
        self.frontends = [
            SimFrontend(
                number,
                self.events,
                policy,
                admission,
                Random(f"{seed}/{number}"),
                block_size=block_size,
                send=self._send,
                abandon=self._abandon,
                ended=self._ended,
                foreseer=foreseer(),
            )
            for number in range(frontends)
        ]

    # -- membership

    def join(self, info: InstanceInfo, model: StepModel, step_time: StepTime) -> SimInstance:
        instance = SimInstance(
            info.id,
            model,
            step_time,
            self.events,
            inboxes=[frontend.hear for frontend in self.frontends],
            on_first=self._on_first,
            on_last=self._on_last,
            report_delay_s=self.hop_s + self.report_delay_s,
            fast=self.fast,
        )
        instance.role = info.role
        self.instances[info.id] = instance
        for frontend in self.frontends:
            frontend.view.join(info)
        return instance

    def set_role(self, name: str, role: Role) -> None:
        self.instances[name].role = role
        for frontend in self.frontends:
            frontend.view.set_role(name, role)

    def set_standing(self, name: str, standing: Standing) -> None:
        self.instances[name].draining = standing is Standing.DRAINING
        for frontend in self.frontends:
            frontend.view.set_state(name, standing)

    def leave(self, name: str) -> None:
        """It must be empty: what still runs on it would be lost."""
        instance = self.instances.pop(name)
        assert not instance.requests, f"{name} leaves with {len(instance.requests)} requests"
        instance.stop()
        for frontend in self.frontends:
            frontend.view.leave(name)

    # -- a run

    def run(self, plugins: Sequence[Plugin] = (), progress: Callable[[int], None] | None = None) -> Results:
        """Until every request has ended. `progress` hears how many just did, now and then."""
        for plugin in plugins:
            plugin.start(self)
        self._arrivals = iter(self.workload.arrivals())
        self._next_arrival()
        told = 0
        while self._open:
            happen = self.events.happen
            for _ in range(4096):
                happen()
                if not self._open:
                    break
            ended = self.results.ends.total()
            if progress is not None:
                progress(ended - told)
            told = ended
        return self.results

    @property
    def decision_hash(self) -> str:
        """Of all placements in order: request, instance."""
        return self._log.hexdigest()

    def _next_arrival(self) -> None:
        request = next(self._arrivals, None)
        if request is not None:
            self._open += 1
            self.events.at(request.arrival_s, self._arrive_and_next, request)

    def _arrive_and_next(self, now_s: float, request: SimRequest) -> None:
        self._next_arrival()
        self._arrive(now_s, request)

    def _arrive(self, now_s: float, request: SimRequest) -> None:
        frontend = self.frontends[self._arrived % len(self.frontends)]
        self._arrived += 1
        frontend.arrive(now_s, request)

    def _send(self, request: SimRequest, now_s: float) -> None:
        self.decisions += 1
        self._log.update(f"{request.request_id} {request.instance}\n".encode())
        self.events.at(now_s + self.hop_s, self.instances[request.instance].submit, request)

    def _abandon(self, request: SimRequest, now_s: float) -> None:
        if request.instance in self.instances:
            self.events.at(now_s + self.hop_s, self.instances[request.instance].abort, request.request_id)

    def _on_first(self, request: SimRequest, now_s: float) -> None:
        request.first_s = now_s + self.hop_s

    def _on_last(self, request: SimRequest, now_s: float) -> None:
        request.last_s = now_s + self.hop_s
        self._ended(request, End.COMPLETED, request.last_s)

    def _ended(self, request: SimRequest, end: End, now_s: float) -> None:
        if request.end is not End.PENDING:
            return  # it ran out of time and ended at its instance before that heard of it
        request.end = end
        self._open -= 1
        self.results.add(request, now_s)
        for follower in self.workload.after(request, now_s):
            self._open += 1
            self.events.at(max(follower.arrival_s, self.events.now_s), self._arrive, follower)


__all__ = ["Plugin", "Simulation"]
