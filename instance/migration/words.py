"""The closed lists of live migration, its deadlines and its sizes. See docs/migration.md for the protocol."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Ending(Enum):
    """How a move ended, as its source tells it; each move has exactly one."""

    COMMITTED = "committed"  # the target owns it
    MOVED_WAITING = "moved_waiting"  # it was not running: its owner submitted it anew at the target
    UNDONE = "undone"  # its owner said no, or it began to run meanwhile: it goes on here
    REFUSED = "refused"  # it cannot be moved, or the target will not have it
    NO_ROOM = "no_room"  # at the target
    BUSY = "busy"  # as many moves as allowed are under way here
    TOO_MANY_STAGES = "too_many_stages"  # it seals blocks faster than they are copied
    SOURCE_GONE = "source_gone"  # it finished, was aborted or preempted here; the detail says which
    SOURCE_SLOW = "source_slow"  # this engine did not come to a step boundary in time
    TARGET_LOST = "target_lost"  # its stream broke, or it did not answer in time
    OWNER_SILENT = "owner_silent"  # no answer in time, or its stream ended
    STOPPED = "stopped"  # this instance is being stopped
    ERROR = "error"  # a fault here


MOVED = frozenset({Ending.COMMITTED, Ending.MOVED_WAITING})


@dataclass(frozen=True, slots=True)
class Patience:
    """How long each wait may last. A client's pause is at most prepare_s + settle_s and the steps around it.

    `lease_s` outlasts `settle_s`, so that an owner that answered in time finds its request still there.
    """

    look_s: float = 5.0  # source, for a step boundary
    open_s: float = 2.0
    parcel_s: float = 2.0
    park_s: float = 5.0
    prepare_s: float = 0.8
    settle_s: float = 1.2
    idle_s: float = 10.0  # target, for the next parcel
    lease_s: float = 4.0  # target, for the owner's word after Prepared


@dataclass(frozen=True, slots=True)
class Sizes:
    """A stage copies what had sealed when it began. Once `stages` are over, up to `last_blocks` are copied in the
    pause; of a followed request up to `followed_blocks`, about a chunk.
    """

    stages: int = 8
    last_blocks: int = 8
    followed_blocks: int = 128


DISAGGREGATE = "disaggregate"  # as reason of a Move: begun before the prefill, handed over after the first token
FOLLOW_S = 0.002  # between two looks at a request that computes its prompt
QUEUED_S = 0.02  # or waits for that


__all__ = ["DISAGGREGATE", "FOLLOW_S", "MOVED", "QUEUED_S", "Ending", "Patience", "Sizes"]
