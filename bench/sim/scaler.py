"""How many instances there are, in a simulation: the production rule over average freeness, with the time that starting
and draining take. A plug-in.

As the controller has it: nothing is decided while anybody starts or leaves, and the youngest leaves first. Without a
plug-in that moves requests, a draining instance waits for its own to end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shoal.bench.sim.picture import host_of
from shoal.bench.sim.simulation import Simulation
from shoal.instance.step_model import StepModel
from shoal.instance.step_time import StepTime
from shoal.proto.config import ScalingConfig
from shoal.router.contract import InstanceInfo
from shoal.router.load import average_freeness
from shoal.router.scaling import ScaleState, desired_count
from shoal.router.view import Standing

Make = Callable[[str], tuple[InstanceInfo, StepModel]]
LOOK_S = 0.5  # an instance that was empty at two looks is: what was on its way to it has arrived


class Scaler:
    """`instance_s`: of all that exist, those that start or drain included. `make` makes a member."""

    def __init__(
        self, rules: ScalingConfig, make: Make, step_time: StepTime, start_s: float, headroom_tokens: int
    ) -> None:
        self.rules, self.make, self.step_time = rules, make, step_time
        self.start_s, self.headroom_tokens = start_s, headroom_tokens
        self.instance_s, self.most = 0.0, 0
        self.state = ScaleState()
        self._starting = 0
        self._leaving: dict[str, bool] = {}  # was it empty at the last look?

    def start(self, simulation: Simulation) -> None:
        self.simulation, self._next = simulation, len(simulation.instances)
        simulation.events.at(simulation.events.now_s + LOOK_S, self._look)

    def _look(self, now_s: float, _: None) -> None:
        members = self.simulation.instances
        self.instance_s += (len(members) + self._starting) * LOOK_S
        self.most = max(self.most, len(members))
        self._let_go()
        if not self._starting and not self._leaving:
            self._decide(now_s)
        self.simulation.events.at(now_s + LOOK_S, self._look)

    def _decide(self, now_s: float) -> None:
        members = self.simulation.instances
        average = average_freeness([host_of(one, now_s, {}) for one in members.values()], self.headroom_tokens)
        self.state, wanted = desired_count(self.state, average, len(members), now_s, self.rules)
        if wanted > len(members):
            self._starting = wanted - len(members)
            self.simulation.events.at(now_s + self.start_s, self._ready)
        for name in list(members)[wanted:]:
            self.simulation.set_standing(name, Standing.DRAINING)
            self._leaving[name] = False

    def _ready(self, now_s: float, _: None) -> None:
        for _number in range(self._starting):
            self.simulation.join(*self.make(f"i{self._next}"), self.step_time)
            self._next += 1
        self._starting = 0

    def _let_go(self) -> None:
        for name, was_empty in list(self._leaving.items()):
            model = self.simulation.instances[name].model
            empty = not (model.has_work() or model.parked or model.guests.leased)
            if empty and was_empty:
                self.simulation.leave(name)
                del self._leaving[name]
            else:
                self._leaving[name] = empty

    def summary(self) -> dict[str, Any]:
        return {"instance_hours": self.instance_s / 3600, "most_instances": self.most}


__all__ = ["Scaler"]
