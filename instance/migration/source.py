"""The source's side of one move, pure: events in, commands out, time as an argument.

stage       what it waits for                                    may become
LOOKING     the engine's word on the request                     OPENING (running), PARKING (waiting), ENDED
OPENING     the target's lease: which blocks it lacks            COPYING, FLUSHING (parked), PREPARING (parked), ENDED
COPYING     receipts of sealed blocks; the request runs on       COPYING, PARKING, ENDED
PARKING     a step boundary to take it out of the batch          OPENING, FLUSHING, PREPARING, DECIDING (waiting), ENDED
FLUSHING    receipts of blocks that sealed until it was parked   PREPARING, ENDED
PREPARING   the target's word that it holds everything           DECIDING, ENDED
DECIDING    the owner's word                                     ENDED
ENDED       nothing; exactly one Ending

Every wait has a deadline. Whatever goes wrong before the owner's word, the request goes on here: `Unpark` is part of
every ending from PARKING on but the committed one. An owner that decided without our hearing it has raised the epoch,
so what an unparked request still says is not believed.

A move planned at admission *follows* its request: it looks on until the prompt is being computed, copies each chunk's
blocks while later chunks compute, and counts stages towards the limit only from the first token on. With that token the
request is parked at once: for what the last chunk sealed, and the lease itself where there was but one chunk, it waits.
"""

from __future__ import annotations

from enum import Enum

from shoal.instance.migration.source_words import (
    Broken,
    Command,
    Declined,
    Event,
    Expired,
    Follow,
    HandOver,
    InFlight,
    Installed,
    LineLost,
    Look,
    Open,
    Opened,
    Park,
    Parked,
    Prepare,
    Prepared,
    Release,
    Seen,
    Send,
    Settled,
    Unpark,
)
from shoal.instance.migration.words import FOLLOW_S, QUEUED_S, Ending, Patience, Sizes
from shoal.instance.mover import Phase, Sight


class Stage(Enum):
    LOOKING = "looking"
    OPENING = "opening"
    COPYING = "copying"
    PARKING = "parking"
    FLUSHING = "flushing"
    PREPARING = "preparing"
    DECIDING = "deciding"
    ENDED = "ended"


NEXT: dict[Stage, frozenset[Stage]] = {
    Stage.LOOKING: frozenset({Stage.OPENING, Stage.PARKING, Stage.ENDED}),
    Stage.OPENING: frozenset({Stage.COPYING, Stage.FLUSHING, Stage.PREPARING, Stage.ENDED}),
    Stage.COPYING: frozenset({Stage.COPYING, Stage.PARKING, Stage.ENDED}),
    Stage.PARKING: frozenset({Stage.OPENING, Stage.FLUSHING, Stage.PREPARING, Stage.DECIDING, Stage.ENDED}),
    Stage.FLUSHING: frozenset({Stage.FLUSHING, Stage.PREPARING, Stage.ENDED}),
    Stage.PREPARING: frozenset({Stage.DECIDING, Stage.ENDED}),
    Stage.DECIDING: frozenset({Stage.ENDED}),
    Stage.ENDED: frozenset(),
}
PAUSED = frozenset({Stage.PARKING, Stage.FLUSHING, Stage.PREPARING, Stage.DECIDING})


class IllegalMove(AssertionError):
    """A bug here, or of the shell: the state table has no such arrow. Carries the story of the move."""


class Source:
    """Sole owner of one move's stage. `stages` counts copy rounds; `copied_s`, `parked_s`: when those began."""

    def __init__(
        self, parcel_blocks: int, *, patience: Patience = Patience(), sizes: Sizes = Sizes(), follow: bool = False
    ) -> None:
        self.parcel_blocks, self.patience, self.sizes, self.follow = parcel_blocks, patience, sizes, follow
        self.stage = Stage.LOOKING
        self.deadline_s = float("inf")
        self.ending: Ending | None = None
        self.detail = ""
        self.stages = self._early_stages = 0
        self.opened_s = self.parked_s = 0.0
        self._sent = 0  # the target has blocks 0.._sent-1, once _queue is empty
        self._queue: list[int] = []
        self._waiting = False  # it has no KV to copy
        self._leased = self._parked = False
        self._story: list[str] = []

    def start(self, now_s: float) -> list[Command]:
        self.opened_s, self.deadline_s = now_s, now_s + self.patience.look_s
        return [self._look(0.0)]

    def feed(self, event: Event, now_s: float) -> list[Command]:
        """What to do now. An ended move does nothing. Raises IllegalMove for an event that this stage cannot have."""
        self._story.append(f"{self.stage.value}: {type(event).__name__}")
        if self.stage is Stage.ENDED:
            return []
        match event:
            case Broken(ending, detail):
                return self._undo(ending, detail)
            case Declined(reason, no_room):
                return self._undo(Ending.NO_ROOM if no_room else Ending.REFUSED, reason)
            case LineLost(detail):
                return [] if self.stage is Stage.DECIDING else self._undo(Ending.TARGET_LOST, detail)
            case Expired():
                return self._expire() if now_s >= self.deadline_s else []
        return self._step(event, now_s)

    def _step(self, event: Event, now_s: float) -> list[Command]:
        match self.stage, event:
            case Stage.LOOKING, Seen(sight, _):
                return self._looked(sight, now_s)
            case Stage.OPENING, Opened(missing):
                return self._opened(list(missing), now_s)
            case ((Stage.LOOKING | Stage.COPYING), Parked(sight, pinned)):
                self._enter(Stage.PARKING, now_s, 0.0)
                return self._was_parked(sight, pinned, now_s)
            case Stage.COPYING, Installed():
                return self._next_parcel(now_s)
            case Stage.COPYING, Seen(sight, pinned):
                return self._another_stage(sight, pinned, now_s)
            case Stage.PARKING, InFlight():
                return [Park(self._sent)]
            case Stage.PARKING, Parked(sight, pinned):
                return self._was_parked(sight, pinned, now_s)
            case Stage.FLUSHING, Installed():
                return self._next_parcel(now_s)
            case Stage.PREPARING, Prepared():
                return self._decide(now_s)
            case Stage.DECIDING, Settled(committed):
                return self._settled(committed)
        raise IllegalMove(f"{self.stage.value} cannot have {event}; story: {', '.join(self._story)}")

    # -- copy

    def _looked(self, sight: Sight, now_s: float) -> list[Command]:
        if self._is_early(sight) and (sight.phase is Phase.WAITING or sight.unmovable or not sight.sealed_blocks):
            return self._look_later(sight, now_s)
        if sight.phase is Phase.WAITING:
            self._waiting = True
            return self._park(now_s)
        if sight.unmovable:
            return self._undo(Ending.REFUSED, sight.unmovable)
        self._early_stages += self._is_early(sight)
        self._enter(Stage.OPENING, now_s, self.patience.open_s)
        return [Open()]

    def _opened(self, missing: list[int], now_s: float) -> list[Command]:
        self._leased = True
        return self._flush(missing, now_s) if self._parked else self._copy(missing, now_s)

    def _copy(self, positions: list[int], now_s: float) -> list[Command]:
        self.stages += 1
        self._enter(Stage.COPYING, now_s, self.patience.parcel_s)
        self._queue = positions
        return self._next_parcel(now_s)

    def _next_parcel(self, now_s: float) -> list[Command]:
        if self._queue:
            positions, self._queue = self._queue[: self.parcel_blocks], self._queue[self.parcel_blocks :]
            self.deadline_s = now_s + self.patience.parcel_s
            return [Send(tuple(positions))]
        if self.stage is Stage.FLUSHING:
            return self._prepare(now_s)
        self.deadline_s = now_s + self.patience.look_s
        return [self._look(0.0)]

    def _look(self, wait_s: float) -> Command:
        return Follow(self._sent, wait_s, self.sizes.followed_blocks) if self.follow else Look(self._sent)

    def named(self, blocks: int) -> None:
        """Blocks 0..blocks-1 were named in Open: what is not missing of them is there already."""
        self._sent = blocks

    def _another_stage(self, sight: Sight, pinned: int, now_s: float) -> list[Command]:
        if sight.phase is not Phase.RUNNING:
            return self._undo(Ending.SOURCE_GONE, "preempted")
        if self._is_early(sight):
            if not pinned:
                return self._look_later(sight, now_s)
            self._early_stages += 1
            return self._copy(self._take(pinned), now_s)
        if pinned == 0:
            return self._park(now_s)
        if self.stages - self._early_stages >= self.sizes.stages:
            if pinned > self.sizes.last_blocks:
                return self._undo(Ending.TOO_MANY_STAGES, f"{pinned} blocks left after {self.stages}")
            return self._park(now_s)
        return self._copy(self._take(pinned), now_s)

    def _is_early(self, sight: Sight) -> bool:
        return self.follow and sight.computes_prompt

    def _look_later(self, sight: Sight, now_s: float) -> list[Command]:
        self.deadline_s = now_s + self.patience.look_s
        return [self._look(QUEUED_S if sight.phase is Phase.WAITING else FOLLOW_S)]

    def _take(self, pinned: int) -> list[int]:
        positions = list(range(self._sent, self._sent + pinned))
        self._sent += pinned
        return positions

    # -- pause

    def _park(self, now_s: float) -> list[Command]:
        self._enter(Stage.PARKING, now_s, self.patience.park_s)
        return [Park(self._sent)]

    def _was_parked(self, sight: Sight, pinned: int, now_s: float) -> list[Command]:
        self._parked, self.parked_s = True, now_s
        if self._waiting:
            return self._undo(Ending.UNDONE, "it began to run") if sight.computed_tokens else self._decide(now_s)
        if sight.sealed_blocks < self._sent or not sight.computed_tokens:
            return self._undo(Ending.SOURCE_GONE, "preempted")
        if not self._leased:
            self._enter(Stage.OPENING, now_s, self.patience.prepare_s)
            return [Open()]
        return self._flush(self._take(pinned), now_s)

    def _flush(self, positions: list[int], now_s: float) -> list[Command]:
        if not positions:
            return self._prepare(now_s)
        self._queue = positions
        self._enter(Stage.FLUSHING, now_s, self.patience.prepare_s)
        return self._next_parcel(now_s)

    def _prepare(self, now_s: float) -> list[Command]:
        self._enter(Stage.PREPARING, now_s, self.patience.prepare_s)
        return [Prepare(self._sent)]

    def _decide(self, now_s: float) -> list[Command]:
        self._enter(Stage.DECIDING, now_s, self.patience.settle_s)
        return [HandOver(not self._waiting)]

    # -- ends

    def _settled(self, committed: bool) -> list[Command]:
        if not committed:
            return self._undo(Ending.UNDONE, "its owner said no")
        self._end(Ending.MOVED_WAITING if self._waiting else Ending.COMMITTED, "")
        return [Release()]

    def _expire(self) -> list[Command]:
        match self.stage:
            case Stage.LOOKING | Stage.PARKING:
                return self._undo(Ending.SOURCE_SLOW, f"no step boundary while {self.stage.value}")
            case Stage.DECIDING:
                return self._undo(Ending.OWNER_SILENT, f"no answer in {self.patience.settle_s:g} s")
        return self._undo(Ending.TARGET_LOST, f"no answer while {self.stage.value}")

    def _undo(self, ending: Ending, detail: str) -> list[Command]:
        paused = self.stage in PAUSED or self.follow  # whose last look may be about to park it
        self._end(ending, detail)
        return [Unpark()] if paused else []

    def _end(self, ending: Ending, detail: str) -> None:
        self._enter(Stage.ENDED, 0.0, float("inf"))
        self.ending, self.detail = ending, detail

    def _enter(self, stage: Stage, now_s: float, patience_s: float) -> None:
        if stage not in NEXT[self.stage]:
            raise IllegalMove(f"{self.stage.value} -> {stage.value}; story: {', '.join(self._story)}")
        self.stage, self.deadline_s = stage, now_s + patience_s


__all__ = ["NEXT", "PAUSED", "IllegalMove", "Source", "Stage"]
