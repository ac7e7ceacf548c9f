"""Live migration as a frontend sees it: the one commit, the word to both sides, and what the client's pause was.

A Handover is answered in any case. Between the commit and the target's first output a move is under way here: should
the target refuse or be lost meanwhile, the request goes back to its source, where most of its blocks still are. Owns
the counts; a move under way is its Flight's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from shoal.cluster.journal import Move
from shoal.cluster.ledgers import Flight, Ledgers
from shoal.cluster.link import Link
from shoal.proto.failpoints import hit
from shoal.proto.v1 import instance_pb2 as pb
from shoal.router.contract import Placement

PAUSE_BUCKETS_S = (0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0)


@dataclass(slots=True)
class Counts:
    """`committed` and `resubmitted` by reason. `pauses`: how many ended in each bucket, the last one open."""

    committed: Counter[str] = field(default_factory=Counter)
    denied: Counter[str] = field(default_factory=Counter)
    resubmitted: Counter[str] = field(default_factory=Counter)
    pauses: list[int] = field(default_factory=lambda: [0] * (len(PAUSE_BUCKETS_S) + 1))
    pause_sum_s: float = 0.0

    def paused(self, pause_s: float) -> None:
        self.pauses[bisect_left(PAUSE_BUCKETS_S, pause_s)] += 1
        self.pause_sum_s += pause_s


class Handovers:
    def __init__(self, ledgers: Ledgers, links: Mapping[str, Link], clock: Callable[[], float]) -> None:
        self.ledgers, self.links, self.clock = ledgers, links, clock
        self.counts = Counts()

    def on_handover(self, link: Link, handover: pb.Handover) -> None:
        target = self.links.get(handover.target)
        committed = target is not None and self._commit(link, handover)
        settle = pb.Settle(
            move_id=handover.move_id, request_id=handover.request_id, epoch=handover.epoch, committed=committed
        )
        link.send(pb.Up(settle=settle))
        self.counts.committed[handover.reason] += committed
        self.counts.denied[handover.reason] += not committed

    def _commit(self, link: Link, handover: pb.Handover) -> bool:
        request_id, target = handover.request_id, handover.target
        hit("handovers.before_commit")
        journal = self.ledgers.journal
        if not journal.hand_over(request_id, link.instance_id, handover.epoch, handover.index, target):
            return False
        hit("handovers.after_commit")
        move = Move(
            handover.move_id,
            handover.reason,
            link.instance_id,
            target,
            handover.index,
            handover.sent_bytes,
            handover.stages,
            handover.prepared,
        )
        flight = self.ledgers.flights[request_id]
        flight.ticket.moves.append(move)
        self.ledgers.pairs.over(request_id)
        flight.moving = move
        if handover.prepared:
            self._book(flight, target, flight.ticket.rest().context_tokens - 1)
            takeover = pb.Takeover(
                move_id=move.move_id,
                request_id=request_id,
                epoch=flight.ticket.epoch,
                traceparent=flight.ticket.traceparent,
            )
            self.links[target].take_over(takeover)
        else:
            self._book(flight, target, 0)
            self.links[target].submit(flight.ticket.submit())
        return True

    def _book(self, flight: Flight, instance: str, cached_tokens: int) -> None:
        self.ledgers.view.book(flight.ticket.rest(), Placement(instance, cached_tokens), self.clock())
        flight.context.instance = instance
        flight.stays(instance)
        self.ledgers.stories.moved(flight.ticket, instance, self.clock())

    def went_on(self, flight: Flight, now_s: float) -> None:
        """New output came, of whoever owns it by now: the client's pause is over."""
        move, flight.moving = flight.moving, None
        if move is not None and flight.heard_s:
            move.pause_s = now_s - flight.heard_s
            self.counts.paused(move.pause_s)

    def way_back(self, flight: Flight) -> Placement | None:
        """Its target was lost, or refused, before it said anything: to its source again, where its blocks still are."""
        move = flight.moving
        if move is None or move.resubmitted or move.source not in self.links:
            return None
        move.resubmitted = True
        self.counts.resubmitted[move.reason] += 1
        return Placement(move.source, flight.ticket.rest().context_tokens - 1)

    def was_refused(self, request_id: str) -> bool:
        """By the target of a move: the lease was over, say. It waits for a place again. False: that was no move."""
        flight = self.ledgers.flights[request_id]
        if flight.moving is None or flight.moving.resubmitted:
            return False
        self.ledgers.journal.release(request_id)
        self.ledgers.send_back(request_id)
        return True


__all__ = ["PAUSE_BUCKETS_S", "Counts", "Handovers"]
