"""The frontend's journal: who owns each request, and which of its tokens the client has. Idea 3 of the design; promises
P1 and P6.

A token is accepted only from the present owner, with the present epoch, at the next index. Every hand-over raises the
epoch here first, in one assignment, so two owners are impossible whatever dies but this frontend. Pure: no clock, no
sockets; the dispatcher acts.

  waiting   no owner: not placed yet, or its owner is gone
  owned     an instance works on it; only its words count
  closed    exactly one Outcome; everything later about it is stale
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field, replace
from enum import Enum

from shoal.proto.v1 import instance_pb2 as pb
from shoal.router.contract import RouteRequest

MAX_CRASHES = 2  # present at so many crashes of its owner: it may be the cause


class Verdict(Enum):
    """What an output is worth."""

    FRESH = "fresh"
    STALE = "stale"  # closed, or of a former owner or epoch
    REPEATED = "repeated"  # the client has all of it already
    BROKEN = "broken"  # a gap or a partial overlap: the stream lost something, so its owner cannot be trusted to go on


class Outcome(Enum):
    """How a request ended; each request has exactly one."""

    STOP = "stop"
    LENGTH = "length"
    REPETITION = "repetition"
    ABORTED = "aborted"  # by its client
    OVERLOADED = "overloaded"  # turned away at the door, the queue was full
    REFUSED = "refused"  # the request itself is impossible
    EXPIRED = "expired"  # its deadline passed before a place was found
    UNAVAILABLE = "unavailable"  # no instance for too long
    QUARANTINED = "quarantined"  # present at MAX_CRASHES crashes, or the same as one that was
    ERROR = "error"


FINISH_OUTCOMES = {  # by vLLM's FinishReason
    None: None,  # it goes on
    0: Outcome.STOP,
    1: Outcome.LENGTH,
    2: Outcome.ABORTED,
    3: Outcome.ERROR,
    4: Outcome.REPETITION,
}


@dataclass(slots=True)
class Move:
    """One hand-over of a request, for `shoal explain`. `pause_s`: the gap that its client saw; None: not over yet."""

    move_id: str
    reason: str
    source: str
    target: str
    index: int
    sent_bytes: int
    stages: int
    prepared: bool
    pause_s: float | None = None
    resubmitted: bool = False


@dataclass(slots=True)
class Ticket:
    """One request. `payload` is what an engine needs to start it; `delivered` its output tokens so far, in order.
    `traceparent`: of its present stay."""

    route: RouteRequest
    payload: bytes
    fingerprint: bytes
    resume_key: str = ""
    resume_context: bytes = b""
    epoch: int = 0
    owner: str | None = None
    delivered: list[int] = field(default_factory=list)
    crashes: int = 0
    losses: int = 0
    moves: list[Move] = field(default_factory=list)
    traceparent: str = ""

    @property
    def request_id(self) -> str:
        return self.route.request_id

    def submit(self) -> pb.Submit:
        """What its present owner is told."""
        return pb.Submit(
            request_id=self.request_id,
            epoch=self.epoch,
            request=self.payload,
            delivered=self.delivered,
            tenant=self.route.tenant,
            resume_key=self.resume_key,
            resume_context=self.resume_context,
            traceparent=self.traceparent,
        )

    def rest(self) -> RouteRequest:
        """What its next owner is asked for: the delivered tokens are context by now."""
        done = len(self.delivered)
        left = max(self.route.max_new_tokens - done, 1)
        return replace(self.route, context_tokens=self.route.context_tokens + done, max_new_tokens=left)


@dataclass(frozen=True, slots=True)
class Orphans:
    """Requests of a lost owner: to be placed again, those that already gave tokens first; and to be given up."""

    resubmit: list[Ticket]
    quarantine: list[Ticket]


def fingerprint(prompt: list[int], parameters: bytes, lora: str | None) -> bytes:
    """Equal for requests that would do the same to an engine."""
    digest = hashlib.blake2b(parameters, digest_size=16)
    digest.update(repr((lora, prompt)).encode())
    return digest.digest()


class Journal:
    """Sole owner of the tickets of one frontend."""

    def __init__(self) -> None:
        self.tickets: dict[str, Ticket] = {}
        self.outcomes: Counter[Outcome] = Counter()
        self.verdicts: Counter[Verdict] = Counter()

    def open(self, ticket: Ticket) -> None:
        assert ticket.request_id not in self.tickets, ticket.request_id
        self.tickets[ticket.request_id] = ticket

    def turn_away(self, outcome: Outcome) -> None:
        """A request that was never opened ended all the same."""
        self.outcomes[outcome] += 1

    def assign(self, request_id: str, owner: str) -> Ticket:
        """The compare-and-set of a hand-over: from here on only `owner`, under the new epoch, is believed."""
        ticket = self.tickets[request_id]
        ticket.epoch, ticket.owner = ticket.epoch + 1, owner
        return ticket

    def hand_over(self, request_id: str, owner: str, epoch: int, index: int, target: str) -> bool:
        """The same for a live migration, if `owner` still has it under that epoch and every token before `index` is
        here. False: nothing changed.
        """
        ticket = self.tickets.get(request_id)
        if ticket is None or (ticket.owner, ticket.epoch, len(ticket.delivered)) != (owner, epoch, index):
            return False
        self.assign(request_id, target)
        return True

    def accept(self, request_id: str, owner: str, epoch: int, index: int, tokens: list[int]) -> Verdict:
        """Judges one output and, if it is fresh, counts its tokens as delivered."""
        verdict = self._judge(self.tickets.get(request_id), owner, epoch, index, len(tokens))
        self.verdicts[verdict] += 1
        if verdict is Verdict.FRESH:
            self.tickets[request_id].delivered.extend(tokens)
        return verdict

    @staticmethod
    def _judge(ticket: Ticket | None, owner: str, epoch: int, index: int, count: int) -> Verdict:
        if ticket is None or ticket.owner != owner or ticket.epoch != epoch:
            return Verdict.STALE
        have = len(ticket.delivered)
        if index == have:
            return Verdict.FRESH
        return Verdict.REPEATED if index + count <= have else Verdict.BROKEN

    def release(self, request_id: str) -> Ticket:
        """Its owner will not serve it after all."""
        ticket = self.tickets[request_id]
        ticket.owner = None
        return ticket

    def orphan(self, owner: str, *, crashed: bool) -> Orphans:
        """The owner is lost. A crash counts against everyone present; a cut or silent line does not."""
        orphans = Orphans([], [])
        for ticket in [t for t in self.tickets.values() if t.owner == owner]:
            ticket.owner = None
            ticket.crashes += crashed
            ticket.losses += 1
            (orphans.quarantine if ticket.crashes >= MAX_CRASHES else orphans.resubmit).append(ticket)
        orphans.resubmit.sort(key=lambda t: not t.delivered)
        return orphans

    def close(self, request_id: str, outcome: Outcome) -> Ticket | None:
        """None if it is closed already: the first outcome stands."""
        ticket = self.tickets.pop(request_id, None)
        if ticket is not None:
            self.outcomes[outcome] += 1
        return ticket

    def check(self) -> None:
        for request_id, ticket in self.tickets.items():
            assert ticket.request_id == request_id
            assert ticket.owner is None or ticket.epoch > 0, f"{request_id} is owned without an epoch"
            assert ticket.crashes < MAX_CRASHES, f"{request_id} was present at {ticket.crashes} crashes and lives"


__all__ = [
    "FINISH_OUTCOMES",
    "MAX_CRASHES",
    "Journal",
    "Move",
    "Orphans",
    "Outcome",
    "Ticket",
    "Verdict",
    "fingerprint",
]
