"""The target's side of one move, pure: events in, commands out, time as an argument.

stage       what it has, and what it waits for                        may become
LEASING     nothing; the engine's word on room                        RECEIVING, ENDED
RECEIVING   a lease; the next parcel                                  RECEIVING, HOLDING, ENDED
HOLDING     everything; the engine's word on a run slot               PREPARED, ENDED
PREPARED    everything and a slot, runs nothing; the owner's word     ENDED
ENDED       nothing: adopted or dropped

Until PREPARED the end of the stream ends the lease: the source is gone or has thought better of it. From then on the
owner may have decided already, so only its word or the deadline ends it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from shoal.instance.migration.source import IllegalMove
from shoal.instance.migration.words import Patience


class Stage(Enum):
    LEASING = "leasing"
    RECEIVING = "receiving"
    HOLDING = "holding"
    PREPARED = "prepared"
    ENDED = "ended"


NEXT: dict[Stage, frozenset[Stage]] = {
    Stage.LEASING: frozenset({Stage.RECEIVING, Stage.ENDED}),
    Stage.RECEIVING: frozenset({Stage.RECEIVING, Stage.HOLDING, Stage.ENDED}),
    Stage.HOLDING: frozenset({Stage.PREPARED, Stage.ENDED}),
    Stage.PREPARED: frozenset({Stage.ENDED}),
    Stage.ENDED: frozenset(),
}

# -- events


@dataclass(frozen=True, slots=True)
class OpenCame:
    """It names the first `blocks` blocks."""

    blocks: int


@dataclass(frozen=True, slots=True)
class Leased:
    missing: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BlocksCame:
    positions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Installed:
    """Those blocks are written, and whole."""


@dataclass(frozen=True, slots=True)
class PrepareCame:
    pass


@dataclass(frozen=True, slots=True)
class Held:
    pass


@dataclass(frozen=True, slots=True)
class Failed:
    """The engine, or a checksum, or the shell's common sense said no."""

    reason: str
    no_room: bool = False


@dataclass(frozen=True, slots=True)
class StreamEnded:
    pass


@dataclass(frozen=True, slots=True)
class TakenOver:
    pass


@dataclass(frozen=True, slots=True)
class Expired:
    pass


Event = OpenCame | Leased | BlocksCame | Installed | PrepareCame | Held | Failed | StreamEnded | TakenOver | Expired

# -- commands


@dataclass(frozen=True, slots=True)
class Lease:
    pass


@dataclass(frozen=True, slots=True)
class Install:
    """Grow by the new tokens, write these positions, seal the first `sealed` blocks."""

    positions: tuple[int, ...]
    sealed: int


@dataclass(frozen=True, slots=True)
class Hold:
    """Grow by the rest of the tokens, write the tail from `tail` on, take the state."""

    tail: int


@dataclass(frozen=True, slots=True)
class SayOpened:
    missing: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SayInstalled:
    pass


@dataclass(frozen=True, slots=True)
class SayPrepared:
    pass


@dataclass(frozen=True, slots=True)
class Decline:
    reason: str
    no_room: bool = False


@dataclass(frozen=True, slots=True)
class Drop:
    pass


@dataclass(frozen=True, slots=True)
class Adopt:
    pass


Command = Lease | Install | Hold | SayOpened | SayInstalled | SayPrepared | Decline | Drop | Adopt


class Target:
    """Sole owner of one arrival's stage."""

    def __init__(self, *, patience: Patience = Patience()) -> None:
        self.patience = patience
        self.stage = Stage.LEASING
        self.deadline_s = float("inf")
        self.adopted = False
        self._opened = False
        self._here: set[int] = set()
        self._coming: tuple[int, ...] = ()
        self._sealed = 0
        self._story: list[str] = []

    def feed(self, event: Event, now_s: float) -> list[Command]:
        """What to do now. One that has ended does nothing."""
        self._story.append(f"{self.stage.value}: {type(event).__name__}")
        if self.stage is Stage.ENDED:
            return []
        match event:
            case Failed(reason, no_room):
                return self._decline(reason, no_room)
            case StreamEnded():
                return [] if self.stage is Stage.PREPARED else self._drop()
            case Expired():
                return self._drop() if now_s >= self.deadline_s else []
        return self._step(event, now_s)

    def _step(self, event: Event, now_s: float) -> list[Command]:
        match self.stage, event:
            case Stage.LEASING, OpenCame(blocks) if not self._opened:
                self._opened, self._here = True, set(range(blocks))
                self.deadline_s = now_s + self.patience.idle_s
                return [Lease()]
            case Stage.LEASING, Leased(missing):
                self._here -= set(missing)
                self._enter(Stage.RECEIVING, now_s, self.patience.idle_s)
                return [SayOpened(missing)]
            case Stage.RECEIVING, BlocksCame(positions) if positions and not self._coming:
                return self._install(positions)
            case Stage.RECEIVING, Installed():
                self._coming = ()
                self._enter(Stage.RECEIVING, now_s, self.patience.idle_s)
                return [SayInstalled()]
            case Stage.RECEIVING, PrepareCame() if len(self._here) == self._complete():
                self._enter(Stage.HOLDING, now_s, self.patience.idle_s)
                return [Hold(len(self._here))]
            case Stage.HOLDING, Held():
                self._enter(Stage.PREPARED, now_s, self.patience.lease_s)
                return [SayPrepared()]
            case Stage.PREPARED, TakenOver():
                self._enter(Stage.ENDED, now_s, float("inf"))
                self.adopted = True
                return [Adopt()]
            case _, TakenOver():
                return []  # nothing was prepared; the shell refuses
            case _, OpenCame() | BlocksCame() | PrepareCame():  # a peer's mistake, not ours
                return self._decline(f"{self.stage.value} cannot have {event}", no_room=False)
        raise IllegalMove(f"{self.stage.value} cannot have {event}; story: {', '.join(self._story)}")

    def _install(self, positions: tuple[int, ...]) -> list[Command]:
        self._coming = positions
        self._here |= set(positions)
        return [Install(positions, self._complete())]

    def _complete(self) -> int:
        """How many blocks are here without a gap."""
        while self._sealed in self._here:
            self._sealed += 1
        return self._sealed

    def _decline(self, reason: str, no_room: bool) -> list[Command]:
        return [*self._drop(), Decline(reason, no_room)]

    def _drop(self) -> list[Command]:
        self._enter(Stage.ENDED, 0.0, float("inf"))
        return [Drop()]

    def _enter(self, stage: Stage, now_s: float, patience_s: float) -> None:
        if stage not in NEXT[self.stage]:
            raise IllegalMove(f"{self.stage.value} -> {stage.value}; story: {', '.join(self._story)}")
        self.stage, self.deadline_s = stage, now_s + patience_s


__all__ = [
    "NEXT",
    "Adopt",
    "BlocksCame",
    "Command",
    "Decline",
    "Drop",
    "Event",
    "Expired",
    "Failed",
    "Held",
    "Hold",
    "Install",
    "Installed",
    "Lease",
    "Leased",
    "OpenCame",
    "PrepareCame",
    "SayInstalled",
    "SayOpened",
    "SayPrepared",
    "Stage",
    "StreamEnded",
    "TakenOver",
    "Target",
]
