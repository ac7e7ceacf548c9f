"""The planners' shell: keeps what instances say, runs `router/rebalance.py` over it, and follows each move to its end.

Owns the pictures of all instances, the moves in flight, what moves were seen to cost, and a bounded record of ended
ones. All of it comes back by itself from the instances' reports: nothing is saved.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from shoal.cluster.member import InstanceState, Slot
from shoal.cluster.sight import Sight
from shoal.instance.migration.words import MOVED, Ending
from shoal.proto.config import MigrationConfig
from shoal.proto.errors import InvalidArgument, NotFound
from shoal.proto.v1 import controller_pb2 as cpb
from shoal.proto.v1 import instance_pb2 as pb
from shoal.router.board import Costs, Order
from shoal.router.contract import Role
from shoal.router.fleet import Host
from shoal.router.load import freeness
from shoal.router.rebalance import plan

LOST_S = 30.0
SETTLE_S = 0.3  # reports that still show a move's beginning may come for so long after its end
EMPTY_S = 0.5  # and submits that were on their way when a drain began
KEPT_MOVES, KNOWN_PLACES = 2048, 4096
SMOOTHING = 0.2
UNMEASURED = Costs()
SUCCEEDED = {ending.value for ending in MOVED}


@dataclass(slots=True)
class Flight:
    """A move from its order to its end. `told` is set when it has ended."""

    order: Order
    report: cpb.MoveReport
    began_s: float
    ended_s: float | None = None
    told: asyncio.Event = field(default_factory=asyncio.Event)


class Planner:
    """`send` puts a frame on an instance's stream. Lives on the controller's loop."""

    def __init__(
        self,
        rules: MigrationConfig,
        send: Callable[[str, pb.Up], None],
        clock: Callable[[], float],
        role: Callable[[str], str] = lambda _: "mixed",
    ) -> None:
        self.rules, self.send, self.clock, self.role = rules, send, clock, role
        self.sights: dict[str, Sight] = {}
        self.flights: dict[str, Flight] = {}
        self.ended: deque[cpb.MoveReport] = deque(maxlen=KEPT_MOVES)
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.costs = Costs()
        self.known: OrderedDict[tuple[str, str], int] = OrderedDict()
        self.resting: dict[str, float] = {}
        self.crossed = asyncio.Event()  # a report crossed a threshold: plan now

    # What instances say

    def welcomed(self, slot_id: str, welcome: pb.Welcome) -> None:
        self.sights[slot_id] = Sight(welcome, welcome.load)

    def reported(self, slot_id: str, report: pb.StepReport) -> None:
        sight = self.sights.get(slot_id)
        if sight is None:
            return
        before = self._is_pressed(sight.load)
        sight.hear(report, self.clock())
        if self._is_pressed(sight.load) and not before:
            self.crossed.set()

    def _is_pressed(self, load: pb.Load) -> bool:
        return load.waiting > 0 or load.free_blocks * 16 < load.total_blocks

    def moved(self, slot_id: str, moved: pb.Moved) -> None:
        flight = self.flights.get(moved.move_id)
        if flight is None:  # of a controller before this one: a record all the same
            flight = Flight(
                Order(moved.request_id, 0, moved.frontend, slot_id, moved.target, moved.reason, 0),
                cpb.MoveReport(request_id=moved.request_id, source=slot_id, target=moved.target, reason=moved.reason),
                self.clock(),
            )
        self._learn(flight.order, moved)
        for name in ("move_id", "detail", "sent_bytes", "stages", "copy_s", "parked_s", "tokens"):
            setattr(flight.report, name, getattr(moved, name))
        self._end(flight, moved.outcome)

    def forget(self, slot_id: str) -> None:
        """Its stream ended: its moves have, too."""
        self.sights.pop(slot_id, None)
        for flight in list(self.flights.values()):
            if flight.order.source == slot_id and flight.ended_s is None:
                self._end(flight, "lost")

    def _end(self, flight: Flight, outcome: str) -> None:
        now_s = self.clock()
        if flight.ended_s is not None:
            return
        flight.ended_s, flight.report.outcome, flight.report.age_s = now_s, outcome, now_s - flight.began_s
        self.ended.append(flight.report)
        self.outcomes[flight.order.reason, outcome] += 1
        if outcome not in SUCCEEDED and outcome != Ending.BUSY.value:
            self.resting[flight.order.request_id] = now_s + self.rules.rest_s
        flight.told.set()

    def _learn(self, order: Order, moved: pb.Moved) -> None:
        if moved.outcome != Ending.COMMITTED.value:
            return
        self.known[moved.request_id, order.source] = moved.tokens
        while len(self.known) > KNOWN_PLACES:
            self.known.popitem(last=False)
        costs = replace(self.costs, pause_s=_smoothed(self.costs.pause_s, moved.parked_s))
        copied_tokens = moved.tokens - self.known.get((moved.request_id, order.target), 0)
        if moved.sent_bytes and moved.copy_s > 0 and copied_tokens > 0:
            first = self.costs.bytes_per_token == UNMEASURED.bytes_per_token
            per_token = moved.sent_bytes / copied_tokens
            costs = replace(
                costs,
                bandwidth_bytes_per_s=_smoothed(costs.bandwidth_bytes_per_s, moved.sent_bytes / moved.copy_s),
                bytes_per_token=per_token if first else max(costs.bytes_per_token, per_token),
            )
        self.costs = costs

    # What shall be done

    def hosts(self, slots: Iterable[Slot]) -> list[Host]:
        return [self._host(slot, self.sights[slot.id]) for slot in slots if slot.id in self.sights]

    def _host(self, slot: Slot, sight: Sight) -> Host:
        draining = slot.state in (InstanceState.DRAINING, InstanceState.STOPPING)
        placeable = slot.state is InstanceState.READY and not sight.load.draining
        role = Role(self.role(slot.id))
        return sight.host(slot.id, draining=draining, placeable=placeable, resting=self.resting, role=role)

    def plan(self, slots: Iterable[Slot]) -> None:
        now_s = self.clock()
        self.crossed.clear()
        self._tidy(now_s)
        flying = [flight.order for flight in self.flights.values() if flight.ended_s is None]
        settling = [flight.order for flight in self.flights.values() if flight.report.outcome in SUCCEEDED]
        for order in plan(self.hosts(slots), flying, self.rules, self.costs, self.known, settling):
            self.begin(order)

    def _tidy(self, now_s: float) -> None:
        for move_id, flight in list(self.flights.items()):
            if flight.ended_s is None and now_s - flight.began_s > LOST_S:
                self._end(flight, "lost")
            if flight.ended_s is not None and now_s - flight.ended_s > SETTLE_S:
                del self.flights[move_id]
        self.resting = {request: until_s for request, until_s in self.resting.items() if until_s > now_s}

    def begin(self, order: Order) -> Flight:
        move_id = uuid.uuid4().hex[:12]
        report = cpb.MoveReport(
            request_id=order.request_id,
            source=order.source,
            target=order.target,
            reason=order.reason,
            move_id=move_id,
        )
        flight = self.flights[move_id] = Flight(order, report, self.clock())
        move = pb.Move(
            move_id=move_id,
            request_id=order.request_id,
            epoch=order.epoch,
            frontend=order.frontend,
            target=order.target,
            reason=order.reason,
        )
        self.send(order.source, pb.Up(move=move))
        return flight

    def begin_by_hand(self, text: str, target: str) -> Flight:
        """Raises NotFound or InvalidArgument, in words for the person who asked."""
        found = [(slot_id, one) for slot_id, sight in self.sights.items() for one in sight.residents]
        exact = [pair for pair in found if pair[1].request_id == text]
        matching = exact or [pair for pair in found if text in pair[1].request_id]
        if not matching:
            raise NotFound(f"request {text}: nobody has one of this name now")
        if len(matching) > 1:
            raise InvalidArgument("request", limit="the name of one running request", given=f"{text} ({len(matching)})")
        source, one = matching[0]
        if target not in self.sights or target == source:
            raise InvalidArgument("to", limit=f"another instance than {source} that serves", given=target)
        return self.begin(Order(one.request_id, 0, one.frontend, source, target, "person", 0))

    # What people ask

    def in_flight(self) -> Iterator[cpb.MoveReport]:
        now_s = self.clock()
        for flight in self.flights.values():
            if flight.ended_s is None:
                flight.report.age_s = now_s - flight.began_s
                yield flight.report

    def moves_of(self, text: str) -> list[cpb.MoveReport]:
        return [one for one in (*self.ended, *self.in_flight()) if text in one.request_id]

    def ended_since(self, count: int) -> list[cpb.MoveReport]:
        """Moves that ended after the first `count` ones (`outcomes` counts them all); the newest KEPT_MOVES at most."""
        news = min(self.outcomes.total() - count, len(self.ended))
        return list(self.ended)[len(self.ended) - news :]

    def freeness(self, slot: Slot) -> float:
        sight = self.sights.get(slot.id)
        return freeness(self._host(slot, sight), self.rules.headroom_tokens) if sight else float("-inf")

    def is_empty(self, slot_id: str, now_s: float) -> bool:
        sight = self.sights.get(slot_id)
        return sight is not None and sight.empty_since_s is not None and now_s - sight.empty_since_s >= EMPTY_S


def _smoothed(before: float, seen: float) -> float:
    return before + SMOOTHING * (seen - before)


__all__ = ["Flight", "Planner"]
