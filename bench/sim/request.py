"""One simulated request, and what a workload is: requests known beforehand, and those that a client sends when an
earlier one has ended.

`names` are the names of the leading full KV blocks of prompt *and* answer, as far as any other request could share
them; a router is told those of the prompt only. `output_tokens` is the truth, which no policy sees: a router is told
`max_new_tokens`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol


class End(Enum):
    """How it ended; PENDING until then."""

    PENDING = "pending"
    COMPLETED = "completed"
    REFUSED = "refused"
    OVERLOADED = "overloaded"
    EXPIRED = "expired"


@dataclass(slots=True, eq=False)
class SimRequest:
    """Times are seconds on the virtual clock, and of the client: hops are included. `session` is its workload's own.
    `since_s`: when it came to `instance`."""

    request_id: str
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    max_new_tokens: int
    names: Sequence[bytes] = ()
    kind: str = "default"
    tenant: str = "default"
    program: str = ""
    priority: int = 0
    session: Any = None
    frontend: int = 0
    instance: str = ""
    placed_s: float = 0.0
    since_s: float = 0.0
    first_s: float = 0.0
    last_s: float = 0.0
    cached_tokens: int = 0
    preemptions: int = 0
    moves: int = 0
    end: End = End.PENDING


class Workload(Protocol):
    """`total`: how many requests there will be."""

    total: int

    def arrivals(self) -> Iterator[SimRequest]:
        """Those that come whatever happens, by time."""

    def after(self, request: SimRequest, now_s: float) -> Sequence[SimRequest]:
        """What its client, who has just seen it end, sends because of that: now or later."""


@dataclass(slots=True)
class Listed:
    """A workload whose every request is known beforehand."""

    requests: Sequence[SimRequest]

    @property
    def total(self) -> int:
        return len(self.requests)

    def arrivals(self) -> Iterator[SimRequest]:
        return iter(self.requests)

    def after(self, request: SimRequest, now_s: float) -> Sequence[SimRequest]:
        return ()


__all__ = ["End", "Listed", "SimRequest", "Workload"]
