"""What holds slots of the pool for a while: a writer's reservation, a reader's lease or a pin, a copy under way."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Reservation:
    """Slots that one writer may fill until the deadline. `stored`: keys that were there already."""

    tenant: str
    deadline_s: float
    slots: dict[bytes, int] = field(default_factory=dict)
    stored: list[bytes] = field(default_factory=list)
    refused: int = 0


@dataclass(slots=True)
class Lease:
    """Blocks that stay until the deadline. A pin is a lease that nobody reads under: blocks kept for a later turn."""

    keys: tuple[bytes, ...]
    deadline_s: float
    pin: bool = False


@dataclass(frozen=True, slots=True)
class Move:
    """A copy under way, from a slot that stays readable to one that nobody knows yet."""

    key: bytes
    source: int
    target: int
    source_generation: int


__all__ = ["Lease", "Move", "Reservation"]
