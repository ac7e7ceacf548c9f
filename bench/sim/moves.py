"""Who moves, in a simulation: the production planner's rules over the fleet, every so often. A plug-in.

Owns the moves under way, and what of earlier ones the rules want to know. The planner here sees the fleet as it is; in
production its picture is a report old.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

from shoal.bench import stats
from shoal.bench.sim.move import Move
from shoal.bench.sim.picture import host_of
from shoal.bench.sim.request import SimRequest
from shoal.bench.sim.simulation import Simulation
from shoal.instance.migration.budget import BudgetLimits
from shoal.instance.migration.words import DISAGGREGATE, MOVED, Ending
from shoal.proto.config import MigrationConfig
from shoal.router.board import Costs, Order
from shoal.router.fleet import Host
from shoal.router.rebalance import plan

PLAN_S = 0.1
SETTLE_S = 0.3


class Moves:
    """`endings`: reason and ending of every move that is over; `pauses_s`: from parked to taken over."""

    def __init__(self, rules: MigrationConfig, *, block_size: int, bytes_per_token: int, limits: BudgetLimits) -> None:
        self.rules, self.block_size = rules, block_size
        self.block_bytes = block_size * bytes_per_token
        self.parcel_blocks = max(1, limits.in_flight_bytes // limits.moves // self.block_bytes)
        self.bytes_per_token = bytes_per_token
        self.endings: Counter[tuple[str, str]] = Counter()
        self.pauses_s: list[float] = []
        self.flying: dict[str, Move] = {}
        self._settling: deque[tuple[float, Order]] = deque()
        self._resting: dict[str, float] = {}
        self._known: dict[tuple[str, str], int] = {}

    def start(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.costs = Costs(
            bandwidth_bytes_per_s=simulation.links.bytes_per_s, bytes_per_token=float(self.bytes_per_token)
        )
        for frontend in simulation.frontends:
            frontend.plan_move = self.planned
        simulation.events.at(simulation.events.now_s + PLAN_S, self._plan)

    def _plan(self, now_s: float, _: None) -> None:
        while self._settling and self._settling[0][0] < now_s:
            self._settling.popleft()
        flying = [move.order for move in self.flying.values()]
        hosts = self.hosts(now_s)
        for order in plan(hosts, flying, self.rules, self.costs, self._known, [order for _, order in self._settling]):
            self._begin(order, now_s)
        self.simulation.events.at(now_s + PLAN_S, self._plan)

    def planned(self, request: SimRequest, target: str, now_s: float) -> None:
        """At admission: right behind the request on its way, a hand-over after its first token."""
        order = Order(request.request_id, 0, "", request.instance, target, DISAGGREGATE, 0)
        at_s = now_s + self.simulation.hop_s
        source = self.simulation.instances[request.instance]
        self.simulation.events.at(at_s, source.ask, lambda now_s, _: self._begin(order, now_s))

    def _begin(self, order: Order, now_s: float) -> None:
        source, target = (self.simulation.instances.get(name) for name in (order.source, order.target))
        if source is None or target is None or order.request_id not in source.requests:
            return
        if order.request_id in self.flying:
            return
        move = Move(self, order, source.requests[order.request_id][0], source, target)
        self.flying[order.request_id] = move
        move.start(now_s)

    def ended(self, move: Move, ending: Ending, now_s: float) -> None:
        order = move.order
        self.endings[order.reason, ending.value] += 1
        del self.flying[order.request_id]
        self.simulation.frontends[move.request.frontend].pairs.over(order.request_id)
        if ending not in MOVED:
            self._resting[order.request_id] = now_s + self.rules.rest_s
            return
        move.request.moves += 1
        self.simulation.results.moved_s.append(now_s)
        self._settling.append((now_s + SETTLE_S, order))
        if ending is Ending.COMMITTED:
            self.pauses_s.append(now_s - move.machine.parked_s)
            self._known[order.request_id, order.source] = move.request.prompt_tokens

    def summary(self) -> dict[str, Any]:
        table = {f"{reason} {ending}": count for (reason, ending), count in sorted(self.endings.items())}
        pauses_ms = [1e3 * pause_s for pause_s in self.pauses_s]
        spread = {f"pause_ms_p{percent}": stats.percentile(pauses_ms, percent) for percent in (50, 99)}
        return {"moves_by_ending": table, **spread, "moved_bytes": self.simulation.links.carried_bytes}

    def hosts(self, now_s: float) -> list[Host]:
        """The planner's picture."""
        return [host_of(instance, now_s, self._resting) for instance in self.simulation.instances.values()]


__all__ = ["Moves"]
