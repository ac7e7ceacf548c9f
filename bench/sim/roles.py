"""Changes the roles of a simulated fleet by load, with the production rule. A plug-in, beside `Moves`."""

from __future__ import annotations

from shoal.bench.sim.moves import Moves
from shoal.bench.sim.simulation import Simulation
from shoal.proto.config import DisaggregationConfig
from shoal.router.roles import RoleChange, RoleState, change_role

LOOK_S = 0.25


class Roles:
    """`changes`: what was changed, and when."""

    def __init__(self, rules: DisaggregationConfig, moves: Moves, *, lone_step_s: float) -> None:
        self.rules, self.moves, self.lone_step_s = rules, moves, lone_step_s
        self.state = RoleState()
        self.changes: list[tuple[float, RoleChange]] = []

    def start(self, simulation: Simulation) -> None:
        self.simulation = simulation
        simulation.events.at(simulation.events.now_s + LOOK_S, self._look)

    def _look(self, now_s: float, _: None) -> None:
        hosts = self.moves.hosts(now_s)
        self.state, change = change_role(self.state, hosts, now_s, self.lone_step_s, self.rules)
        if change is not None:
            self.changes.append((now_s, change))
            self.simulation.set_role(change.instance, change.role)
        self.simulation.events.at(now_s + LOOK_S, self._look)


__all__ = ["Roles"]
