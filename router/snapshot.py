"""What a decision reads: frozen columns, one row per joined instance, and the question asked of them.

Columns (read-only numpy arrays) rather than one object per instance, so that a decision over hundreds of instances is
a few array operations. `Candidate` is the same picture of one instance for people and for slow planners.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from shoal.router.contract import InstanceInfo, InstanceLoad, Role, RouteRequest

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]


class Standing(Enum):
    """What membership says of an instance. Only READY ones get new work."""

    READY = "ready"
    DRAINING = "draining"
    FENCED = "fenced"


@dataclass(frozen=True, slots=True)
class Members:
    """Fixed facts, by row."""

    infos: tuple[InstanceInfo, ...]
    block_size: Ints
    total_blocks: Floats
    max_model_len: Ints
    takes_prompts: Bools

    @staticmethod
    def of(infos: tuple[InstanceInfo, ...]) -> Members:
        return Members(
            infos,
            block_size=np.array([i.block_size for i in infos], dtype=np.int64),
            total_blocks=np.array([i.total_blocks for i in infos], dtype=np.float64),
            max_model_len=np.array([i.max_model_len for i in infos], dtype=np.int64),
            takes_prompts=np.array([i.role is not Role.DECODE for i in infos], dtype=np.bool_),
        )

    def __len__(self) -> int:
        return len(self.infos)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Live facts, by row. Bookings are included in `requests` and `prefill_tokens`.

    `turn`: number of the latest placement that went there, 0 = none yet. `observed_s`: when the latest report came,
    +inf before the first one (an instance that has just joined is not stale).
    """

    members: Members
    placeable: Bools
    requests: Floats
    prefill_tokens: Floats
    context_tokens: Floats
    free_blocks: Floats
    step_ms: Floats
    observed_s: Floats
    turn: Floats


@dataclass(frozen=True, slots=True)
class Question:
    """One request asked of one snapshot. `cached_tokens`: what each row is believed to hold of it."""

    request: RouteRequest
    snapshot: Snapshot
    cached_tokens: Ints
    now_s: float

    @property
    def members(self) -> Members:
        return self.snapshot.members


@dataclass(frozen=True, slots=True)
class Candidate:
    """One instance as the view sees it now: `load` includes bookings (as waiting requests and queued tokens)."""

    info: InstanceInfo
    load: InstanceLoad
    standing: Standing
    age_s: float


__all__ = ["Bools", "Candidate", "Floats", "Ints", "Members", "Question", "Snapshot", "Standing"]
