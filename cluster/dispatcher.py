"""Where a frontend's requests go and come back: admission, placement, one link per instance, the journal, and failover.

The asyncio shell around pure parts: the router's view and admission queue, the journal, the quarantine. It knows
nothing of vLLM: requests are tickets with bytes in them, outputs are what `decode` makes of a report. `emit` gets each
batch of accepted outputs.

Life of a ticket here: submit -> (waits in admission) -> placed, booked, sent -> reports accepted -> closed. When its
owner is lost it is admitted again, ahead of younger ones, and such returns are placed a few at a time: one of them may
be what killed the owner.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Any

from shoal.cluster.inquiries import Inquiries
from shoal.cluster.journal import FINISH_OUTCOMES, Journal, Outcome, Ticket, Verdict
from shoal.cluster.link import Link, LinkEnd
from shoal.cluster.quarantine import Quarantine
from shoal.cluster.request_context import RequestContext
from shoal.proto.config import AdmissionConfig
from shoal.proto.errors import ClientFault, DeadlinePassed, InvalidArgument, Quarantined, ShoalError, Unavailable
from shoal.proto.v1 import instance_pb2 as pb
from shoal.router.admission import AdmissionQueue
from shoal.router.contract import InstanceInfo, InstanceLoad, Placement, Rejection, Role, Wait
from shoal.router.place import Policy, place
from shoal.router.view import ClusterView, Standing

log = logging.getLogger(__name__)
TICK_S = 0.05
RETURNS_PER_TICK = 8
RETRY_AFTER_S = 2.0
BLOCK_KINDS = {pb.BlockChange.STORED: "stored", pb.BlockChange.REMOVED: "removed", pb.BlockChange.CLEARED: "cleared"}


class RefusedByInstance(ClientFault):
    """An engine looked at the request and cannot serve it."""


@dataclass(slots=True)
class Flight:
    """What the shell keeps of an open ticket: who asked, and who waits for it to be placed."""

    ticket: Ticket
    context: RequestContext
    placed: asyncio.Future[None] | None = None


class Dispatcher:
    """Owns every request of one frontend and every link. Lives on one event loop."""

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
    ) -> None:
        self.policy, self.rng, self.clock = policy, rng, clock
        self.decode, self.emit, self.fail = decode, emit, fail
        self.view, self.journal, self.quarantine = ClusterView(), Journal(), Quarantine()
        self.admission = AdmissionQueue(limits)
        self.admission.set_no_instance(True, clock())
        self.flights: dict[str, Flight] = {}
        self.returns_left = RETURNS_PER_TICK
        self.failovers = 0
        self.links: dict[str, Link] = {}
        self.inquiries = Inquiries()
        self.ticker = asyncio.get_running_loop().create_task(self._tick())

    # -- links

    def add_link(self, link: Link, welcome: pb.Welcome) -> None:
        """A stream to an instance is open; from here on it may be given work."""
        self.links[welcome.instance_id] = link
        self.view.join(
            InstanceInfo(
                id=welcome.instance_id,
                role=Role(welcome.role),
                block_size=welcome.block_size,
                total_blocks=welcome.total_blocks,
                max_model_len=welcome.max_model_len,
                max_num_batched_tokens=welcome.max_num_batched_tokens,
                max_num_seqs=welcome.max_num_seqs,
                loras=frozenset(welcome.loras),
            )
        )
        self._membership_changed()

    def lose_link(self, link: Link, why: LinkEnd) -> None:
        """Its requests go elsewhere, with what their clients have already."""
        if self.links.get(link.instance_id) is not link:
            return
        del self.links[link.instance_id]
        self.inquiries.lose(link)
        self.view.leave(link.instance_id)
        orphans = self.journal.orphan(link.instance_id, crashed=why is LinkEnd.CRASHED)
        for ticket in orphans.quarantine:
            self.quarantine.add(ticket.fingerprint, self.clock())
            self._fail(
                ticket.request_id,
                Outcome.QUARANTINED,
                Quarantined("this request was present when two instances crashed"),
            )
        for ticket in orphans.resubmit:
            self._return(ticket.request_id)
        self.failovers += len(orphans.resubmit)
        if orphans.resubmit or orphans.quarantine:
            log.warning(
                "%s %s: %d moved, %d given up",
                link.instance_id,
                why.value,
                len(orphans.resubmit),
                len(orphans.quarantine),
            )
        self._membership_changed()

    def _return(self, request_id: str) -> None:
        self.view.finish(request_id)
        self.admission.readmit(self.journal.tickets[request_id].route, self.clock())

    # -- requests in

    async def submit(self, ticket: Ticket, context: RequestContext) -> None:
        """Returns once the request has a place. Raises a ShoalError, left in `context.error` too, when it gets none."""
        try:
            self._open(ticket, context)
            flight = self.flights[ticket.request_id]
            self._pump()
            if ticket.owner is None:
                flight.placed = asyncio.get_running_loop().create_future()
                await flight.placed
        except ShoalError as exc:
            context.error = exc
            raise
        except asyncio.CancelledError:
            self.abort([ticket.request_id])
            raise

    def _open(self, ticket: Ticket, context: RequestContext) -> None:
        now_s = self.clock()
        if self.quarantine.holds(ticket.fingerprint, now_s):
            self.journal.outcomes[Outcome.QUARANTINED] += 1
            raise Quarantined("a request like this one was present when two instances crashed")
        try:
            self.admission.offer(ticket.route, now_s)
        except ShoalError:
            self.journal.outcomes[Outcome.UNAVAILABLE] += 1
            raise
        self.journal.open(ticket)
        self.flights[ticket.request_id] = Flight(ticket, context)

    def _pump(self) -> None:
        """Place whatever can be placed, in the queue's order. One that waits for its adapter holds up nobody else."""
        if self.view.placeable == 0:
            return
        for route in list(self.admission.queued()):
            flight = self.flights.get(route.request_id)
            if flight is None:
                continue
            if flight.ticket.epoch:
                if not self.returns_left:
                    return
                self.returns_left -= 1
            self._try(flight)

    def _try(self, flight: Flight) -> None:
        """Placed or failed, it is out of the queue; else it goes on waiting."""
        ticket = flight.ticket
        decision = place(ticket.route, self.view, self.policy, self.clock(), self.rng)
        match decision:
            case Placement():
                self.admission.take(ticket.request_id)
                self._send(flight, decision)
            case Rejection(reason):
                self._fail(
                    ticket.request_id,
                    Outcome.REFUSED,
                    InvalidArgument("request", limit="servable by this cluster", given=reason),
                )
            case Wait():
                pass

    def _send(self, flight: Flight, placement: Placement) -> None:
        ticket = self.journal.assign(flight.ticket.request_id, placement.instance)
        self.view.book(ticket.route, placement, self.clock())
        flight.context.instance = placement.instance
        self.links[placement.instance].submit(
            pb.Submit(
                request_id=ticket.request_id,
                epoch=ticket.epoch,
                request=ticket.payload,
                delivered=ticket.delivered,
                tenant=ticket.route.tenant,
                resume_key=ticket.resume_key,
                resume_context=ticket.resume_context,
            )
        )
        if flight.placed is not None and not flight.placed.done():
            flight.placed.set_result(None)

    def abort(self, request_ids: Iterable[str], outcome: Outcome = Outcome.ABORTED) -> None:
        for request_id in request_ids:
            owner = self.journal.tickets[request_id].owner if request_id in self.journal.tickets else None
            if self._close(request_id, outcome) and owner in self.links:
                self.links[owner].send(pb.Up(abort=pb.Abort(request_ids=[request_id])))

    def _close(self, request_id: str, outcome: Outcome) -> bool:
        """Out of every ledger of this frontend. False if it was out already."""
        if self.journal.close(request_id, outcome) is None:
            return False
        self.flights.pop(request_id)
        self.admission.withdraw(request_id, self.clock())
        self.view.finish(request_id)
        return True

    def _fail(self, request_id: str, outcome: Outcome, error: ShoalError) -> None:
        """Ends it with an error that its client will hear: as an exception while it waits, else as a last output."""
        flight = self.flights.get(request_id)
        if flight is None or not self._close(request_id, outcome):
            return
        flight.context.error = error
        if flight.placed is not None and not flight.placed.done():
            flight.placed.set_exception(error)
        elif flight.ticket.epoch:
            self.fail(request_id)

    # -- frames in

    def on_frame(self, link: Link, frame: pb.Down) -> None:
        match frame.WhichOneof("frame"):
            case "report":
                self._on_report(link, frame.report)
            case "refused":
                self._on_refused(link, frame.refused)
            case "adopted":
                self.inquiries.on_adopted(link, frame.adopted)
            case "reply":
                self.inquiries.on_reply(frame.reply)

    def _on_report(self, link: Link, report: pb.StepReport) -> None:
        instance = link.instance_id
        for request_id in link.take_acknowledged(report.accepted):
            self.view.acknowledged(request_id)
        if report.outputs:
            self._accept_outputs(link, report)
        load = report.load
        self.view.observe(
            instance,
            InstanceLoad(
                running=load.running,
                waiting=load.waiting,
                queued_prefill_tokens=load.queued_prefill_tokens,
                uncached_prefill_tokens=load.uncached_prefill_tokens,
                context_tokens=load.context_tokens,
                free_blocks=load.free_blocks,
                step_ms=load.step_ms,
                draining=load.draining,
            ),
            self.clock(),
        )
        for change in report.blocks:
            self.view.block_changes(instance, BLOCK_KINDS[change.kind], change.hashes)
        if self.admission.queued_requests:
            self._pump()

    def _accept_outputs(self, link: Link, report: pb.StepReport) -> None:
        batch = self.decode(report.outputs)
        fresh = []
        for output, epoch, index in zip(batch.outputs, report.epochs, report.indexes, strict=True):
            verdict = self.journal.accept(output.request_id, link.instance_id, epoch, index, output.new_token_ids)
            if verdict is Verdict.FRESH:
                self._accepted(output, epoch, index)
                fresh.append(output)
            elif verdict is Verdict.BROKEN:
                self._reclaim(link, output.request_id)
        if fresh:
            batch.outputs = fresh
            self.emit(batch)

    def _accepted(self, output: Any, epoch: int, index: int) -> None:
        if output.new_token_ids:
            self.view.first_token(output.request_id)
            self.admission.started(output.request_id, self.clock())
        if epoch > 1:
            output.events = None  # a second admission's times would count its queueing twice
        if output.finish_reason is not None:
            self._close(output.request_id, FINISH_OUTCOMES[output.finish_reason])

    def _reclaim(self, link: Link, request_id: str) -> None:
        """The stream lost part of its output: take it away from there and go on from what the client has."""
        log.error("%s: gap in the output of %s", link.instance_id, request_id)
        link.send(pb.Up(abort=pb.Abort(request_ids=[request_id])))
        self.journal.release(request_id)
        self._return(request_id)

    def _on_refused(self, link: Link, refused: pb.Refused) -> None:
        ticket = self.journal.tickets.get(refused.request_id)
        if ticket is None or ticket.owner != link.instance_id or ticket.epoch != refused.epoch:
            return
        error: ShoalError = RefusedByInstance(refused.reason)
        if not refused.client_fault:
            error = Unavailable(f"{link.instance_id}: {refused.reason}", retry_after_s=RETRY_AFTER_S)
        self._fail(refused.request_id, Outcome.REFUSED if refused.client_fault else Outcome.ERROR, error)

    def claim(self, ticket: Ticket, owner: str, epoch: int, context: RequestContext) -> None:
        """Take over an orphan that `owner` was found to have: it is owned already, and its output comes from index 0
        on.
        """
        link = self.links.get(owner)
        if link is None:
            context.error = Unavailable(f"{owner} is gone", retry_after_s=RETRY_AFTER_S)
            raise context.error
        ticket.owner, ticket.epoch, context.instance = owner, epoch, owner
        self.journal.open(ticket)
        self.flights[ticket.request_id] = Flight(ticket, context)
        route = ticket.route
        link.send(
            pb.Up(
                claim=pb.Claim(
                    resume_key=ticket.resume_key, tenant=route.tenant, request_id=route.request_id, epoch=epoch
                )
            )
        )

    # -- time

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.tick()

    def tick(self) -> None:
        """Deadlines, and another try for what waits."""
        self.returns_left = RETURNS_PER_TICK
        for request_id, error in self.admission.expire(self.clock()).items():
            self._abandon(request_id, error)
        if self.admission.queued_requests:
            self._pump()

    def _abandon(self, request_id: str, error: Unavailable) -> None:
        """Waited too long, for a place or at an instance for its first token."""
        owner = self.journal.tickets[request_id].owner
        if owner in self.links:
            self.links[owner].send(pb.Up(abort=pb.Abort(request_ids=[request_id])))
        self._fail(request_id, Outcome.EXPIRED if isinstance(error, DeadlinePassed) else Outcome.UNAVAILABLE, error)

    def set_standing(self, instance: str, standing: Standing) -> None:
        self.view.set_state(instance, standing)
        self._membership_changed()

    def _membership_changed(self) -> None:
        self.admission.set_no_instance(self.view.placeable == 0, self.clock())
        self._pump()

    async def close(self) -> None:
        self.ticker.cancel()
        for link in self.links.values():
            await link.close()


__all__ = ["Dispatcher", "Flight", "RefusedByInstance"]
