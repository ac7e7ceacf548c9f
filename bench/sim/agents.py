"""Generated sessions: chats of many turns, and agents that call tools. A workload whose requests follow each other.

Each session belongs to an application, whose system prompt and tool schemas all its sessions share. A turn's prompt is
all that was said before plus a message; its answer becomes part of the next prompt. Between two turns lies a pause (a
person thinks, a tool runs). A turn may first fan out into parallel sub-requests, each with the session's context so far
and a message of its own; the turn itself comes when all of them have ended. A plan is drawn whole from the seed and the
session's number, so that what is asked never depends on how fast anybody answered; only when it is asked does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from shoal.bench.sim.request import SimRequest
from shoal.bench.workload import LogNormalLength


@dataclass(frozen=True, slots=True)
class AgentShape:
    """Means; lengths and pauses are log-normal with `sigma`, turns geometric, and a share of turns fans out."""

    applications: int = 8
    shared_tokens: int = 2048
    turns: float = 6.0
    message_tokens: int = 256
    output_tokens: int = 200
    sigma: float = 0.8
    pause_s: float = 3.0
    fan_out_share: float = 0.1
    fan_out: int = 4
    max_context_tokens: int = 32_000


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of a plan: its prompt is the first `kept_tokens` of the session and `message_tokens` of its own."""

    kept_tokens: int
    message_tokens: int
    output_tokens: int
    pause_s: float = 0.0

    @property
    def prompt_tokens(self) -> int:
        return self.kept_tokens + self.message_tokens

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.output_tokens


@dataclass(slots=True)
class Session:
    """`turns`: per turn its sub-requests, and then the turn itself. `open`: sub-requests that have not ended."""

    number: int
    application: int
    at_s: float
    turns: list[tuple[tuple[Ask, ...], Ask]]
    turn: int = 0
    open: int = 0


class Agents:
    """A Workload. Owns the sessions and where each of them stands."""

    def __init__(
        self, shape: AgentShape, starts_s: Sequence[float], *, block_size: int, max_new_tokens: int, seed: int
    ) -> None:
        self.shape, self.block_size, self.max_new_tokens, self.seed = shape, block_size, max_new_tokens, seed
        self._starts_s = starts_s
        self.spans_s: list[float] = []  # of the sessions that have ended, from first request to last answer
        self._sessions: dict[int, Session] = {}
        self.total = sum(len(fan) + 1 for number in range(len(starts_s)) for fan, _ in self._plan(number))

    def arrivals(self) -> Iterator[SimRequest]:
        starts = []
        for number, at_s in enumerate(self._starts_s):
            session = self._sessions[number] = Session(
                number, number % self.shape.applications, at_s, self._plan(number)
            )
            starts += self._ask(session, at_s)
        return iter(sorted(starts, key=lambda request: request.arrival_s))

    def after(self, request: SimRequest, now_s: float) -> list[SimRequest]:
        session: Session = request.session
        if session.open:
            session.open -= 1
            return [] if session.open else [self._turn(session, now_s)]
        session.turn += 1
        if session.turn == len(session.turns):
            del self._sessions[session.number]
            self.spans_s.append(now_s - session.at_s)
            return []
        return self._ask(session, now_s + session.turns[session.turn][1].pause_s)

    # -- plans

    def _plan(self, number: int) -> list[tuple[tuple[Ask, ...], Ask]]:
        shape, rng = self.shape, Random(f"{self.seed}/{number}")
        message = LogNormalLength(shape.message_tokens, shape.sigma, shape.max_context_tokens)
        output = LogNormalLength(shape.output_tokens, shape.sigma, self.max_new_tokens)
        turns: list[tuple[tuple[Ask, ...], Ask]] = []
        kept_tokens = shape.shared_tokens
        while True:
            fans = shape.fan_out if rng.random() < shape.fan_out_share else 0
            fan = tuple([Ask(kept_tokens, message.draw(rng), output.draw(rng)) for _ in range(fans)])
            pause_s = rng.lognormvariate(-(shape.sigma**2) / 2, shape.sigma) * shape.pause_s
            ask = Ask(kept_tokens, message.draw(rng), output.draw(rng), pause_s)
            if turns and max(each.tokens for each in (*fan, ask)) > shape.max_context_tokens:
                return turns
            turns.append((fan, ask))
            kept_tokens = ask.tokens
            if rng.random() < 1 / shape.turns:
                return turns

    # -- requests

    def _ask(self, session: Session, at_s: float) -> list[SimRequest]:
        fan, _ = session.turns[session.turn]
        session.open = len(fan)
        if not fan:
            return [self._turn(session, at_s)]
        return [self._request(session, ask, at_s, f".{branch}") for branch, ask in enumerate(fan)]

    def _turn(self, session: Session, at_s: float) -> SimRequest:
        return self._request(session, session.turns[session.turn][1], at_s, "")

    def _request(self, session: Session, ask: Ask, at_s: float, branch: str) -> SimRequest:
        name = f"s{session.number}.{session.turn}{branch}"
        return SimRequest(
            name,
            at_s,
            ask.prompt_tokens,
            ask.output_tokens,
            self.max_new_tokens,
            self._names(session, ask, name if branch else ""),
            kind="sub" if branch else "turn",
            tenant=f"app{session.application}",
            program=f"s{session.number}",
            session=session,
        )

    def _names(self, session: Session, ask: Ask, branch: str) -> list[bytes]:
        """Of all full blocks: the application's, then the session's, then (of a sub-request) its own."""
        size = self.block_size
        shared, kept = self.shape.shared_tokens // size, ask.kept_tokens // size
        own = f"{session.number}/{branch}" if branch else f"{session.number}"
        return [
            f"a{session.application}:{block}".encode()
            if block < shared
            else f"{session.number if block < kept else own}:{block}".encode()
            for block in range(ask.tokens // size)
        ]


__all__ = ["AgentShape", "Agents", "Ask"]
