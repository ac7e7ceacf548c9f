"""All ledgers of one frontend's requests, kept in step: journal, admission queue, the view's bookings, quarantine, and
who waits for a place.

A request enters all that apply or none (`open`, `take_over`) and leaves all of them at once, with one outcome (`close`,
`fail`). Acts on nothing outside: sockets and placement are the dispatcher's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from shoal.cluster.journal import Journal, Move, Outcome, Ticket
from shoal.cluster.logs import log_end
from shoal.cluster.quarantine import Quarantine
from shoal.cluster.request_context import RequestContext
from shoal.cluster.request_metrics import RequestMetrics
from shoal.cluster.stories import Stories
from shoal.instance.migration.words import DISAGGREGATE
from shoal.proto.config import AdmissionConfig, SloConfig
from shoal.proto.errors import ClientFault, InvalidArgument, Overloaded, Quarantined, ShoalError
from shoal.proto.tracing import NOTHING, Span, begin
from shoal.proto.v1 import instance_pb2 as pb
from shoal.router.admission import AdmissionQueue
from shoal.router.contract import InstanceLoad, Placement
from shoal.router.foreseer import Foreseer
from shoal.router.foresight import StepCoefficients
from shoal.router.length import LengthModel, edges_by_time
from shoal.router.roles import Pairs
from shoal.router.step_fit import StepFit
from shoal.router.view import ClusterView


@dataclass(slots=True)
class Flight:
    """What the shell keeps of an open ticket: who asked, who waits for it to be placed, when its last output came,
    its move under way, and the span of its stay.
    """

    ticket: Ticket
    context: RequestContext
    placed: asyncio.Future[None] | None = None
    span: Span = NOTHING

    def stays(self, instance: str) -> None:
        """A span for each of its lives; what its instance does with it hangs below."""
        self.span.end()
        ticket = self.ticket
        self.span = begin(
            "stay", self.context.traceparent, request=ticket.request_id, instance=instance, epoch=ticket.epoch
        )
        ticket.traceparent = self.span.traceparent

    heard_s: float = 0.0
    moving: Move | None = None

    def settle(self, error: ShoalError | None = None) -> bool:
        """Tells who waits for a place. False: nobody does."""
        if self.placed is None or self.placed.done():
            return False
        if error is None:
            self.placed.set_result(None)
        else:
            self.placed.set_exception(error)
        return True


class Ledgers:
    """Owns every open request of one frontend. `say_failed` tells vLLM's side of one that had started."""

    def __init__(
        self,
        limits: AdmissionConfig,
        say_failed: Callable[[str], None],
        clock: Callable[[], float],
        slo: SloConfig = SloConfig(),
        judged: Callable[[str, bool | None], None] = lambda request_id, met: None,
    ) -> None:
        """`judged` hears of each request at its end whether it met the SLO; None: it was not served."""
        self.clock, self.say_failed, self.judged = clock, say_failed, judged
        self.view, self.journal, self.quarantine = ClusterView(), Journal(), Quarantine()
        self.admission, self.foreseer = AdmissionQueue(limits), _foreseer()
        self.admission.set_no_instance(True, clock())
        self.flights: dict[str, Flight] = {}
        self.pairs = Pairs()
        self.metrics = RequestMetrics(slo)
        self.charge: Callable[[str, int, float], None] = lambda tenant, tokens, now_s: None
        self.stories = Stories()

    def open(self, ticket: Ticket, context: RequestContext) -> Flight:
        """It waits for a place. Raises the ShoalError that is its outcome."""
        ticket.route = self.foreseer.predicted(self.view.programs.known(ticket.route))
        try:
            self._admit(ticket)
        except ShoalError as exc:
            self.journal.turn_away(_refusal(exc))
            raise
        return self._enter(ticket, context)

    def _admit(self, ticket: Ticket) -> None:
        if self.quarantine.holds(ticket.fingerprint, self.clock()):
            raise Quarantined("a request like this one was present when two instances crashed")
        if ticket.request_id in self.flights:
            raise InvalidArgument("request_id", limit="not in use", given=ticket.request_id)
        self.admission.offer(ticket.route, self.clock())

    def take_over(self, ticket: Ticket, context: RequestContext) -> Flight:
        """It is owned already, and was admitted by a frontend that is gone."""
        if ticket.request_id in self.flights:
            raise InvalidArgument("request_id", limit="not in use", given=ticket.request_id)
        return self._enter(ticket, context)

    def _enter(self, ticket: Ticket, context: RequestContext) -> Flight:
        self.journal.open(ticket)
        flight = self.flights[ticket.request_id] = Flight(ticket, context)
        return flight

    def place(self, flight: Flight, placement: Placement) -> None:
        """From here on the chosen instance owns it, under a new epoch."""
        route = self.admission.take(flight.ticket.request_id)
        self.view.book(route, placement, self.clock())
        self.metrics.placed(route, placement, self.clock())
        epoch = self.journal.assign(route.request_id, placement.instance).epoch
        self.stories.placed(route.request_id, placement, epoch, self.clock())
        if epoch == 1:
            begin("queue", flight.context.traceparent, began_s_ago=self.clock() - route.arrived_s).end()
        flight.stays(placement.instance)
        flight.context.instance = placement.instance
        flight.settle()

    def planned_move(self, ticket: Ticket) -> pb.Move | None:
        """Of one that was just placed on a prefill instance: its hand-over after the first token. Whatever ends that
        move, the request goes on."""
        target = self.pairs.choose(ticket.rest(), self.view.snapshot(), ticket.owner or "")
        if target is None:
            return None
        return pb.Move(
            move_id=f"{ticket.request_id}@{ticket.epoch}",
            request_id=ticket.request_id,
            epoch=ticket.epoch,
            target=target,
            reason=DISAGGREGATE,
        )

    def observe(self, instance: str, load: InstanceLoad) -> None:
        self.view.observe(instance, load, self.clock())
        self.foreseer.reported(load)

    def started(self, request_id: str, now_s: float) -> None:
        """Tokens of it came."""
        self.metrics.token(request_id, now_s)
        self.view.first_token(request_id)
        self.admission.started(request_id, now_s)

    def send_back(self, request_id: str) -> None:
        """Its owner is gone: it waits for a place again, ahead of younger ones."""
        self.pairs.over(request_id)
        self.view.finish(request_id)
        self.flights[request_id].span.event("lost")
        self.admission.readmit(self.journal.tickets[request_id].rest(), self.clock())

    def close(self, request_id: str, outcome: Outcome) -> Flight | None:
        """Out of every ledger. None if it was out already."""
        ticket = self.journal.close(request_id, outcome)
        if ticket is None:
            return None
        self.pairs.over(request_id)
        self.view.programs.ended(ticket.route, len(ticket.delivered), self.clock())
        if ticket.delivered:
            self.foreseer.ended(ticket.route, len(ticket.delivered), over=outcome is Outcome.STOP)
            self.view.foresight = self.foreseer.foresight
        self.judged(request_id, self.metrics.ended(ticket, outcome, self.clock()))
        self.charge(ticket.route.tenant, ticket.route.context_tokens + len(ticket.delivered), self.clock())
        self.admission.withdraw(request_id, self.clock())
        self.view.finish(request_id)
        flight = self.flights.pop(request_id)
        flight.span.note(outcome=outcome.value, output_tokens=len(ticket.delivered))
        flight.span.end()
        log_end(ticket, flight.context, outcome, self.clock())
        return flight

    def fail(self, request_id: str, outcome: Outcome, error: ShoalError) -> None:
        """Ends it with an error that its client will hear: as an exception while it waits, else as a last output."""
        flight = self.close(request_id, outcome)
        if flight is None:
            return
        flight.context.error = error
        if not flight.settle(error):
            self.say_failed(request_id)

    def check(self) -> None:
        """Every ledger knows the same requests. For tests."""
        self.journal.check()
        self.admission.check()
        self.view.check()
        assert self.flights.keys() == self.journal.tickets.keys()
        queued = {route.request_id for route in self.admission.queued()}
        unowned = {request_id for request_id, ticket in self.journal.tickets.items() if ticket.owner is None}
        assert queued == unowned, f"queued {queued}, without an owner {unowned}"


def _foreseer() -> Foreseer:
    return Foreseer(LengthModel(edges_by_time()), fit=StepFit(StepCoefficients()))


def _refusal(error: ShoalError) -> Outcome:
    match error:
        case Quarantined():
            return Outcome.QUARANTINED
        case Overloaded():
            return Outcome.OVERLOADED
        case ClientFault():
            return Outcome.REFUSED
    return Outcome.UNAVAILABLE


__all__ = ["Flight", "Ledgers"]
