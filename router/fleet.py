"""What a planner sees of the whole cluster: hosts and jobs, frozen. The controller makes them out of reports.

A host is an instance, a job one request on it. Unlike a frontend's view, which is for placing one request fast, this
one names every request.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from shoal.router.contract import Role
from shoal.router.rank import Rank, rank_of

UNKNOWN_OUTPUT_TOKENS = 64  # what a request that has said nothing yet is taken to have left


class Phase(Enum):
    """MOVING: it has run and is on its way; it holds room on both sides. COMING: it waits, on its way to this host."""

    RUNNING = "running"
    WAITING = "waiting"
    MOVING = "moving"
    COMING = "coming"


QUEUED = (Phase.WAITING, Phase.COMING)


@dataclass(frozen=True, slots=True)
class Job:
    """`blocks`: held; of a waiting one, that it needs to start. `age_s`: since it came to this host.

    `unmovable`: why it cannot move, or empty.
    """

    request_id: str
    frontend: str = ""
    epoch: int = 0
    phase: Phase = Phase.RUNNING
    blocks: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    computed_tokens: int = 0
    max_new_tokens: int = 1 << 30
    priority: int = 0
    age_s: float = float("inf")
    moves: int = 0
    unmovable: str = ""

    @property
    def rank(self) -> Rank:
        return rank_of(self.priority)

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.output_tokens

    @property
    def uncomputed_tokens(self) -> int:
        """Prefill that is still ahead of it; 0 of one that decodes."""
        left = self.tokens - self.computed_tokens
        return left if left > 1 else 0

    @property
    def remaining_tokens(self) -> int:
        """Predicted: with heavy-tailed lengths, what has lasted long will last as long again."""
        return min(max(self.output_tokens, UNKNOWN_OUTPUT_TOKENS), self.max_new_tokens - self.output_tokens)

    @property
    def queue_order(self) -> tuple[int, float]:
        return self.priority, -self.age_s


@dataclass(frozen=True, slots=True)
class Host:
    """One instance. `free_blocks` counts cached blocks that nobody holds. `kind`: hosts of equal kind may exchange
    requests (model, version). `placeable`: takes requests at all; a fenced or silent one does not.

    `prefill_s_per_token`: measured.
    """

    id: str
    block_size: int
    total_blocks: int
    free_blocks: int
    jobs: tuple[Job, ...] = ()
    max_running: int = 1 << 30
    step_s: float = 0.02
    prefill_s_per_token: float = 1e-4
    kind: str = ""
    draining: bool = False
    placeable: bool = True
    role: Role = Role.MIXED

    @property
    def running(self) -> list[Job]:
        return [job for job in self.jobs if job.phase not in QUEUED]

    @property
    def waiting(self) -> list[Job]:
        """In the order in which the engine will start them."""
        return sorted((job for job in self.jobs if job.phase in QUEUED), key=lambda job: job.queue_order)


__all__ = ["QUEUED", "UNKNOWN_OUTPUT_TOKENS", "Host", "Job", "Phase"]
