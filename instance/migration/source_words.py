"""What a move's source is told, and what it tells its shell to do: the words of `source.py`."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.instance.migration.words import Ending
from shoal.instance.mover import Sight

# -- events


@dataclass(frozen=True, slots=True)
class Seen:
    """What the engine says; `pinned` sealed blocks are held from the asked position on."""

    sight: Sight
    pinned: int


@dataclass(frozen=True, slots=True)
class Opened:
    missing: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Declined:
    reason: str
    no_room: bool = False


@dataclass(frozen=True, slots=True)
class Installed:
    pass


@dataclass(frozen=True, slots=True)
class InFlight:
    """It cannot be parked yet: its tokens are."""


@dataclass(frozen=True, slots=True)
class Parked:
    """As `Seen`, of the parked request."""

    sight: Sight
    pinned: int


@dataclass(frozen=True, slots=True)
class Prepared:
    pass


@dataclass(frozen=True, slots=True)
class Settled:
    committed: bool


@dataclass(frozen=True, slots=True)
class Broken:
    """It cannot go on, whatever the stage: the request is gone, its owner's stream ended, this instance stops."""

    ending: Ending
    detail: str = ""


@dataclass(frozen=True, slots=True)
class LineLost:
    """The stream to the target ended."""

    detail: str = ""


@dataclass(frozen=True, slots=True)
class Expired:
    """The deadline passed."""


Event = Seen | Opened | Declined | Installed | InFlight | Parked | Prepared | Settled | Broken | LineLost | Expired

# -- commands


@dataclass(frozen=True, slots=True)
class Look:
    """Ask the engine, and pin the sealed blocks from `first` on."""

    first: int


@dataclass(frozen=True, slots=True)
class Follow:
    """As Look, after `wait_s`. What has made its first token is parked at once, if at most `park_blocks` are pinned:
    the next step may be another prompt's and long. Then the answer is Parked.
    """

    first: int
    wait_s: float
    park_blocks: int


@dataclass(frozen=True, slots=True)
class Open:
    pass


@dataclass(frozen=True, slots=True)
class Send:
    positions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Park:
    """At the next step boundary, and pin as `Look` does."""

    first: int


@dataclass(frozen=True, slots=True)
class Prepare:
    """State, and all blocks from `first` on: the unsealed one, if there is any."""

    first: int


@dataclass(frozen=True, slots=True)
class HandOver:
    prepared: bool


@dataclass(frozen=True, slots=True)
class Unpark:
    pass


@dataclass(frozen=True, slots=True)
class Release:
    pass


Command = Look | Open | Send | Park | Prepare | HandOver | Unpark | Release


__all__ = [
    "Broken",
    "Command",
    "Declined",
    "Event",
    "Expired",
    "HandOver",
    "InFlight",
    "Installed",
    "LineLost",
    "Look",
    "Open",
    "Opened",
    "Park",
    "Parked",
    "Prepare",
    "Prepared",
    "Release",
    "Seen",
    "Send",
    "Settled",
    "Unpark",
]
