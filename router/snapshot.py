"""What a decision reads: columns with one row per joined instance, and the question asked of them.

Columns (read-only numpy arrays) rather than one object per instance, so that a decision over hundreds of instances is
a few array operations. They are windows on the view's own table, not copies: true until the view hears its next fact,
and never kept beyond one decision. `Candidate` is the same picture of one instance for people and for slow planners.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from shoal.router.arrays import Bools, Floats, Ints
from shoal.router.contract import InstanceInfo, InstanceLoad, Role, RouteRequest
from shoal.router.foresight import Foresight
from shoal.router.programs import Programs


class Standing(Enum):
    """What membership says of an instance. Only READY ones get new work."""

    READY = "ready"
    DRAINING = "draining"
    FENCED = "fenced"


@dataclass(frozen=True, slots=True)
class Members:
    """Fixed facts, by row. `tokens`: what its KV memory holds; `step_tokens`: what one step computes at most.
    `least_model_len` fits everywhere; no block is larger than `most_block_size`."""

    infos: npt.NDArray[Any]
    block_size: Floats
    total_blocks: Floats
    tokens: Floats
    step_tokens: Floats
    max_model_len: Ints
    prefills: Bools
    decodes: Bools
    least_model_len: int
    most_block_size: int

    @staticmethod
    def of(infos: Sequence[InstanceInfo]) -> Members:
        objects = np.empty(len(infos), dtype=object)
        objects[:] = infos
        return Members(
            objects,
            block_size=np.array([i.block_size for i in infos], dtype=np.float64),
            total_blocks=np.array([i.total_blocks for i in infos], dtype=np.float64),
            tokens=np.array([i.total_blocks * i.block_size for i in infos], dtype=np.float64),
            step_tokens=np.array([i.max_num_batched_tokens for i in infos], dtype=np.float64),
            max_model_len=np.array([i.max_model_len for i in infos], dtype=np.int64),
            prefills=np.array([i.role is Role.PREFILL for i in infos], dtype=np.bool_),
            decodes=np.array([i.role is Role.DECODE for i in infos], dtype=np.bool_),
            least_model_len=min((i.max_model_len for i in infos), default=0),
            most_block_size=max((i.block_size for i in infos), default=1),
        )

    def only(self, rows: Ints) -> Members:
        return Members(
            self.infos[rows],
            self.block_size[rows],
            self.total_blocks[rows],
            self.tokens[rows],
            self.step_tokens[rows],
            self.max_model_len[rows],
            self.prefills[rows],
            self.decodes[rows],
            self.least_model_len,
            self.most_block_size,
        )

    def __len__(self) -> int:
        return len(self.infos)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Live facts, by row; the fields after `table` are its rows in this order. Bookings are included in `requests`,
    `waiting` and `prefill_tokens`.

    `turn`: number of the latest placement that went there, 0 = none yet. `observed_s`: when the latest report came,
    +inf before the first one (an instance that has just joined is not stale). `cached_blocks`: how many blocks the
    index knows on its device.
    """

    members: Members
    placeable: Bools
    table: Floats
    requests: Floats
    waiting: Floats
    prefill_tokens: Floats
    context_tokens: Floats
    free_blocks: Floats
    step_ms: Floats
    observed_s: Floats
    turn: Floats
    cached_blocks: Floats

    COLUMNS: ClassVar[int] = 9

    @classmethod
    def over(cls, members: Members, placeable: Bools, table: Floats) -> Snapshot:
        return cls(members, placeable, table, *table)

    def only(self, rows: Ints) -> Snapshot:
        return self.over(self.members.only(rows), self.placeable[rows], self.table[:, rows])

    def sealed(self) -> Snapshot:
        """A read-only window on the same numbers."""
        placeable, table = self.placeable.view(), self.table.view()
        placeable.flags.writeable = table.flags.writeable = False
        return self.over(self.members, placeable, table)


@dataclass(frozen=True, slots=True)
class Question:
    """One request asked of one snapshot. What each row is believed to have of it, from the start on without a gap:
    `cached_tokens` on its device, `pool_tokens` there or in its pool, `disk_tokens` there, in its pool or on disk.
    `split_from_tokens`: a prompt with fewer to compute is not worth a hand-over."""

    request: RouteRequest
    snapshot: Snapshot
    cached_tokens: Floats
    pool_tokens: Floats
    disk_tokens: Floats
    now_s: float
    foresight: Foresight
    programs: Programs
    split_from_tokens: int = 512

    @property
    def new_tokens(self) -> float:
        """What it is expected to generate."""
        predicted = self.request.expected_new_tokens
        return min(self.foresight.new_tokens if predicted is None else predicted, self.request.max_new_tokens)

    @property
    def members(self) -> Members:
        return self.snapshot.members

    def only(self, rows: Ints) -> Question:
        """The same question asked of some rows."""
        return replace(
            self,
            snapshot=self.snapshot.only(rows),
            cached_tokens=self.cached_tokens[rows],
            pool_tokens=self.pool_tokens[rows],
            disk_tokens=self.disk_tokens[rows],
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """One instance as the view sees it now: `load` includes bookings (as waiting requests and queued tokens)."""

    info: InstanceInfo
    load: InstanceLoad
    standing: Standing
    age_s: float


__all__ = ["Bools", "Candidate", "Floats", "Ints", "Members", "Question", "Snapshot", "Standing"]
