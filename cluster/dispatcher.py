"""Where a frontend's requests go and come back: admission, placement, one link per instance, the journal, and failover.

The asyncio shell around pure parts: the router's policy and the ledgers. It knows nothing of vLLM: requests are tickets
with bytes in them, outputs are what `decode` makes of a report. `emit` gets each batch of accepted outputs.

Life of a ticket here: submit -> (waits in admission) -> placed, booked, sent -> reports accepted -> closed. When its
owner is lost it is admitted again, ahead of younger ones, and such returns are placed a few at a time: one of them may
be what killed the owner.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from shoal.cluster.handovers import Handovers
from shoal.cluster.inquiries import Inquiries
from shoal.cluster.instance_words import changes_of, check_outputs, info_of, load_of, refusal_of
from shoal.cluster.journal import FINISH_OUTCOMES, Outcome, Ticket, Verdict
from shoal.cluster.ledgers import Flight, Ledgers
from shoal.cluster.link import Link, LinkEnd
from shoal.cluster.request_context import RequestContext
from shoal.instance.frames import TELL_BLOCKS
from shoal.proto.config import AdmissionConfig, SloConfig
from shoal.proto.errors import (
    DeadlinePassed,
    InvalidArgument,
    Quarantined,
    ServerFault,
    ShoalError,
    Unavailable,
)
from shoal.proto.failpoints import hit
from shoal.proto.v1 import instance_pb2 as pb
from shoal.router.contract import Placement, Rejection, Role, RouteRequest, Wait
from shoal.router.pilot import Pilot
from shoal.router.place import Policy
from shoal.router.view import Standing

log = logging.getLogger(__name__)
TICK_S = 0.05
RETURNS_PER_TICK = 8
GRACE_S = 0.05  # a node's instances die together: nobody may be sent to the next one to die, and be suspected. So
# returns wait that long after a crash, and until whoever is left has spoken since, as each does every 50 ms: on a busy
# machine a killed process may take longer to go.
RETRY_AFTER_S = 2.0


class Dispatcher:
    """Owns every request of one frontend (in its ledgers) and every link. Lives on one event loop."""

    def __init__(
        self,
        *,
        policy: Policy,
        limits: AdmissionConfig,
        rng: Random,
        decode: Callable[[bytes], Any],
        emit: Callable[[Any], None],
        fail: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        slo: SloConfig = SloConfig(),
    ) -> None:
        self.pilot, self.rng, self.clock = Pilot(policy), rng, clock
        self.decode, self.emit = decode, emit
        self.ledgers = Ledgers(limits, fail, clock, slo, self.pilot.ended)
        self.view, self.journal, self.admission = self.ledgers.view, self.ledgers.journal, self.ledgers.admission
        self.flights, self.quarantine = self.ledgers.flights, self.ledgers.quarantine
        self.returns_left, self.returns_after_s = RETURNS_PER_TICK, 0.0
        self.unheard: set[str] = set()  # linked instances that said nothing since the last crash
        self.failovers = 0
        self.link_ends: Counter[LinkEnd] = Counter()
        self.links: dict[str, Link] = {}
        self.closed = False
        self.inquiries = Inquiries()
        self.handovers = Handovers(self.ledgers, self.links, clock)
        self.ticker = asyncio.get_running_loop().create_task(self._tick())

    # -- links

    def add_link(self, link: Link, welcome: pb.Welcome) -> None:
        """A stream to an instance is open; from here on it may be given work."""
        self.view.join(info_of(welcome))
        self.links[welcome.instance_id] = link
        self._membership_changed()

    def lose_link(self, link: Link, why: LinkEnd) -> None:
        """Its requests go elsewhere, with what their clients have already."""
        if self.links.get(link.instance_id) is not link:
            return
        del self.links[link.instance_id]
        self.unheard.discard(link.instance_id)
        self.link_ends[why] += 1
        self.inquiries.lose(link)
        self.view.leave(link.instance_id)
        orphans = self.journal.orphan(link.instance_id, crashed=why is LinkEnd.CRASHED)
        for ticket in orphans.quarantine:
            self.quarantine.add(ticket.fingerprint, self.clock())
            error = Quarantined("this request was present when two instances crashed")
            self.ledgers.fail(ticket.request_id, Outcome.QUARANTINED, error)
        for ticket in orphans.resubmit:
            self.ledgers.send_back(ticket.request_id)
        if why is LinkEnd.CRASHED:
            self.returns_after_s, self.unheard = self.clock() + GRACE_S, set(self.links)
            asyncio.get_running_loop().call_later(GRACE_S, self._pump)
        self.failovers += len(orphans.resubmit)
        log.warning(
            "%s %s: %d moved, %d given up", link.instance_id, why.value, len(orphans.resubmit), len(orphans.quarantine)
        )
        self._membership_changed()

    def set_role(self, instance: str, role: Role) -> None:
        self.view.set_role(instance, role)

    def set_standing(self, instance: str, standing: Standing) -> None:
        self.view.set_state(instance, standing)
        self._membership_changed()

    def _membership_changed(self) -> None:
        self.admission.set_no_instance(self.view.placeable == 0, self.clock())
        self._pump()

    # -- requests in

    async def submit(self, ticket: Ticket, context: RequestContext) -> None:
        """Returns once it has a place or was aborted. Raises a ShoalError (left in `context` too) if it gets none."""
        try:
            if self.closed:
                raise _stopping()
            flight = self.ledgers.open(ticket, context)
            flight.placed = asyncio.get_running_loop().create_future()
            self._pump()
            await flight.placed
        except ShoalError as exc:
            context.error = exc
            raise
        except asyncio.CancelledError:
            self.abort([ticket.request_id])
            raise

    def _pump(self) -> None:
        """Place whatever can be placed, in the queue's order, until one waits for what all compete for."""
        if self.view.placeable == 0:
            return
        for route in self.admission.queued():
            flight = self.flights[route.request_id]
            if flight.ticket.epoch:
                if not self.returns_left or self.unheard or self.clock() < self.returns_after_s:
                    return
                self.returns_left -= 1
            if self._try(flight, route):
                return

    def _try(self, flight: Flight, route: RouteRequest) -> bool:
        """Placed or failed, it is out of the queue; else it goes on waiting. True: so should all behind it."""
        request_id = route.request_id
        try:
            began_s = self.clock()
            decision = self.handovers.way_back(flight) or self.pilot.place(route, self.view, began_s, self.rng)
            took_s = self.clock() - began_s
            self.ledgers.metrics.decided(took_s)
            self.pilot.took(took_s)
            match decision:
                case Placement() as placement:
                    self._send(flight, placement)
                case Rejection(reason):
                    error = InvalidArgument("request", limit="servable by this cluster", given=reason)
                    self.ledgers.fail(request_id, Outcome.REFUSED, error)
                case Wait(holds_up=holds_up):
                    return holds_up
        except Exception:  # one request that nobody can place must not hold up all others
            log.exception("%s cannot be placed", request_id)
            self.ledgers.fail(request_id, Outcome.ERROR, ServerFault(f"{request_id}: its placement failed"))
        return False

    def _send(self, flight: Flight, placement: Placement) -> None:
        hit("dispatcher.before_assign")
        self.ledgers.place(flight, placement)
        hit("dispatcher.after_assign")
        link = self.links[placement.instance]
        link.submit(flight.ticket.submit())
        if (move := self.ledgers.planned_move(flight.ticket)) is not None:
            link.send(pb.Up(move=move))

    def claim(self, ticket: Ticket, owner: str, epoch: int, context: RequestContext) -> None:
        """Take over an orphan that `owner` was found to have: it is owned already, and its output comes from index 0
        on.
        """
        link = self.links.get(owner)
        if link is None:
            context.error = Unavailable(f"{owner} is gone", retry_after_s=RETRY_AFTER_S)
            raise context.error
        ticket.owner, ticket.epoch, context.instance = owner, epoch, owner
        self.ledgers.take_over(ticket, context).stays(owner)
        claim = pb.Claim(
            resume_key=ticket.resume_key, tenant=ticket.route.tenant, request_id=ticket.request_id, epoch=epoch
        )
        link.send(pb.Up(claim=claim))

    def abort(self, request_ids: Iterable[str], outcome: Outcome = Outcome.ABORTED) -> None:
        for request_id in request_ids:
            flight = self.ledgers.close(request_id, outcome)
            if flight is not None:
                self._abort_at(flight.ticket.owner, request_id)
                flight.settle()

    def _abort_at(self, owner: str | None, request_id: str) -> None:
        if owner in self.links:
            self.links[owner].send(pb.Up(abort=pb.Abort(request_ids=[request_id])))

    # -- frames in

    def on_frame(self, link: Link, frame: pb.Down) -> None:
        """Raises for a frame that makes no sense; its link then ends. What it said before that counts."""
        self.unheard.discard(link.instance_id)
        match frame.WhichOneof("frame"):
            case "report":
                self._on_report(link, frame.report)
            case "refused":
                self._on_refused(link, frame.refused)
            case "adopted":
                self.inquiries.on_adopted(link, frame.adopted)
            case "reply":
                self.inquiries.on_reply(frame.reply)
            case "handover":
                self.handovers.on_handover(link, frame.handover)
            case "moved":
                self.ledgers.pairs.over(frame.moved.request_id)

    def _on_report(self, link: Link, report: pb.StepReport) -> None:
        for request_id in link.take_acknowledged(report.accepted):
            self.view.acknowledged(request_id)
        if report.outputs:
            self._accept_outputs(link, report)
        self.ledgers.observe(link.instance_id, load_of(report.load))
        if self.view.block_batch(link.instance_id, changes_of(report), report.block_sequence):
            log.warning("%s: block changes before number %d are missing", link.instance_id, report.block_sequence)
            link.send(pb.Up(call=pb.Call(method=TELL_BLOCKS)))
        if self.admission.queued_requests:
            self._pump()

    def _accept_outputs(self, link: Link, report: pb.StepReport) -> None:
        batch = self.decode(report.outputs)
        check_outputs(batch.outputs, report)
        fresh: list[Any] = []
        try:
            for output, epoch, index in zip(batch.outputs, report.epochs, report.indexes, strict=True):
                verdict = self.journal.accept(output.request_id, link.instance_id, epoch, index, output.new_token_ids)
                if verdict is Verdict.FRESH:
                    fresh.append(output)
                    self._accepted(output, epoch)
                elif verdict is Verdict.BROKEN:
                    self._reclaim(link, output.request_id)
        finally:  # what the journal counts as delivered must be delivered
            if fresh:
                batch.outputs = fresh
                self.emit(batch)

    def _accepted(self, output: Any, epoch: int) -> None:
        hit("dispatcher.after_accept")
        if output.new_token_ids:
            now_s, flight = self.clock(), self.flights[output.request_id]
            self.ledgers.started(output.request_id, now_s)
            self.handovers.went_on(flight, now_s)
            if not flight.heard_s:
                flight.span.event("first token")
            flight.heard_s = now_s
        if epoch > 1 and getattr(output, "events", None):
            output.events = None  # a second admission's times would count its queueing twice
        if (outcome := FINISH_OUTCOMES[output.finish_reason]) is not None:
            self.ledgers.close(output.request_id, outcome)

    def _reclaim(self, link: Link, request_id: str) -> None:
        """The stream lost part of its output: take it away from there and go on from what the client has."""
        log.error("%s: gap in the output of %s", link.instance_id, request_id)
        self._abort_at(link.instance_id, request_id)
        self.journal.release(request_id)
        self.ledgers.send_back(request_id)

    def _on_refused(self, link: Link, refused: pb.Refused) -> None:
        ticket = self.journal.tickets.get(refused.request_id)
        if ticket is None or ticket.owner != link.instance_id or ticket.epoch != refused.epoch:
            return
        if self.handovers.was_refused(refused.request_id):
            self._pump()
            return
        outcome = Outcome.REFUSED if refused.client_fault else Outcome.ERROR
        self.ledgers.fail(refused.request_id, outcome, refusal_of(link.instance_id, refused))

    # -- time

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.tick()

    def tick(self) -> None:
        """Deadlines, and another try for what waits."""
        self.returns_left = RETURNS_PER_TICK
        for request_id, error in self.admission.expire(self.clock()).items():
            self._abort_at(self.journal.tickets[request_id].owner, request_id)
            outcome = Outcome.EXPIRED if isinstance(error, DeadlinePassed) else Outcome.UNAVAILABLE
            self.ledgers.fail(request_id, outcome, error)
        if self.admission.queued_requests:
            self._pump()

    async def close(self) -> None:
        """Whoever still waits is told so; instances keep what is resumable for another frontend."""
        self.closed = True
        self.ticker.cancel()
        for request_id in list(self.flights):
            self.ledgers.fail(request_id, Outcome.UNAVAILABLE, _stopping())
        for link in self.links.values():
            await link.close()


def _stopping() -> Unavailable:
    return Unavailable("this frontend is being stopped", retry_after_s=RETRY_AFTER_S)


__all__ = ["Dispatcher"]
