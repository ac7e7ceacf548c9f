"""The words of placement: what a policy sees and what it answers. Pure data; see `place` for the rule and `view` for
who keeps it true.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Role(Enum):
    MIXED = "mixed"
    PREFILL = "prefill"
    DECODE = "decode"


@dataclass(frozen=True, slots=True)
class Traits:
    """What says something about the length of an answer, without its text. `hour`: of the day, 0 to 24. `turn`: how
    many requests of its program came before."""

    application: str = ""
    temperature: float = 1.0
    hour: float = 0.0
    turn: int = 0


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """What placement may know of a request. `block_hashes` is the chain of its full prompt blocks (salt and adapter
    included).

    `context_tokens` = prompt plus output tokens that a resubmission carries: what must be computed or found in a cache.
    Smaller `priority` is served first. Times are seconds on the caller's monotonic clock. `expected_new_tokens`:
    predicted length of its answer; None: nobody predicts. `program`: the agent or workflow that it is a call of, unique
    across tenants; `began_s`: when that program's first call came. `offline`: nobody waits for it, it takes what is
    left over.
    """

    request_id: str
    context_tokens: int
    max_new_tokens: int
    block_hashes: tuple[bytes, ...] = ()
    tenant: str = "default"
    lora: str | None = None
    priority: int = 0
    arrived_s: float = 0.0
    deadline_s: float = float("inf")
    excluded: frozenset[str] = frozenset()
    traits: Traits = Traits()
    expected_new_tokens: float | None = None
    program: str = ""
    began_s: float | None = None
    offline: bool = False


@dataclass(frozen=True, slots=True)
class InstanceInfo:
    """Fixed facts of a member, from its Welcome."""

    id: str
    role: Role
    block_size: int
    total_blocks: int
    max_model_len: int
    max_num_batched_tokens: int
    max_num_seqs: int
    loras: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class InstanceLoad:
    """A snapshot as the instance reported it. Token counts are of tokens not yet computed, except `context_tokens`."""

    running: int = 0
    waiting: int = 0
    queued_prefill_tokens: int = 0
    uncached_prefill_tokens: int = 0
    context_tokens: int = 0
    free_blocks: int = 0
    step_ms: float = 0.0
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Term:
    """One scorer's word on one candidate, for `shoal explain`."""

    scorer: str
    raw: float
    weight: float


@dataclass(frozen=True, slots=True)
class Placement:
    """Go there. `cached_tokens` is what the view believes to be in that instance's prefix cache. `policy`: who decided,
    weights with their version; `rail`: what kept learned weights from deciding, in words."""

    instance: str
    cached_tokens: int = 0
    terms: Mapping[str, tuple[Term, ...]] = field(default_factory=dict)
    policy: str = ""
    rail: str = ""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nobody fits now but somebody will; ask again when the view changes or after `retry_s`. `holds_up`: whoever stands
    behind it in the queue should wait too, or those who need little would keep out one who needs much for ever."""

    reason: str
    retry_s: float = 0.05
    holds_up: bool = False


@dataclass(frozen=True, slots=True)
class Rejection:
    """No instance of this cluster can ever serve it as asked, e.g. its adapter is loaded nowhere."""

    reason: str


Decision = Placement | Wait | Rejection

__all__ = [
    "Decision",
    "InstanceInfo",
    "InstanceLoad",
    "Placement",
    "Rejection",
    "Role",
    "RouteRequest",
    "Term",
    "Traits",
    "Wait",
]
