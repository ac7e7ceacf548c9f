"""The pool's slots: segments of a fixed number of them, each slot in one state. Pure bookkeeping, no bytes.

ABSENT  -> FREE     its segment was added
FREE    -> WRITING  reserved, or the target of a move          ABSENT   its segment was dropped
WRITING -> COLD     published                                  FREE     the reservation ended otherwise
COLD    -> HOT      used again                                 FREE     evicted or moved away
HOT     -> COLD     too many are hot                           FREE     evicted or moved away

A slot's generation rises whenever it is given out, and outlives its segment: no place is ever named twice.
"""

from __future__ import annotations

from array import array
from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from shoal.instance.pool.recency import Links


class Tier(IntEnum):
    MEMORY = 0
    DISK = 1


class State(IntEnum):
    ABSENT = 0
    FREE = 1
    WRITING = 2
    COLD = 3
    HOT = 4


class Place(NamedTuple):
    """Where a block lies, for whoever maps the arena. `segment` is a serial number that is never used again."""

    segment: int
    index: int
    generation: int


@dataclass(slots=True)
class Segment:
    """`number` is its place in the slot table, which a later segment may take again."""

    serial: int
    number: int
    tier: Tier
    draining: bool = False


class SlotTable:
    """Owns segments, and of each slot: state, generation, key, number of leases, tenant."""

    def __init__(self, slots_per_segment: int) -> None:
        self.slots_per_segment = slots_per_segment
        self.segments: list[Segment | None] = []
        self.serials = 0
        self.links = Links()
        self.state, self.generation = bytearray(), array("I")
        self.key: list[bytes | None] = []
        self.leases, self.tenant = array("H"), array("H")
        self.free: dict[Tier, deque[int]] = {tier: deque() for tier in Tier}
        self.capacity: dict[Tier, int] = dict.fromkeys(Tier, 0)

    def add_segment(self, tier: Tier) -> Segment:
        size = self.slots_per_segment
        number = next((n for n, segment in enumerate(self.segments) if segment is None), len(self.segments))
        if number == len(self.segments):
            self.segments.append(None)
            self.links.grow(size)
            self.state.extend(bytes(size))
            for column in (self.generation, self.leases, self.tenant):
                column.extend([0] * size)
            self.key.extend([None] * size)
        self.serials += 1
        segment = self.segments[number] = Segment(self.serials, number, tier)
        slots = self.slots_of(segment)
        self.state[slots.start : slots.stop] = bytes([State.FREE]) * size
        self.free[tier].extend(slots)
        self.capacity[tier] += size
        return segment

    def drop_segment(self, segment: Segment) -> None:
        """It must be draining, and every slot of it free."""
        assert segment.draining
        slots = self.slots_of(segment)
        assert all(self.state[slot] == State.FREE for slot in slots), f"segment {segment.serial} is in use"
        self.state[slots.start : slots.stop] = bytes(len(slots))
        self.segments[segment.number] = None

    def set_draining(self, segment: Segment, draining: bool) -> None:
        """From a draining segment nothing is given out, and it no longer counts as capacity."""
        if segment.draining == draining:
            return
        segment.draining = draining
        self.capacity[segment.tier] += -self.slots_per_segment if draining else self.slots_per_segment
        slots = self.slots_of(segment)
        others = deque(slot for slot in self.free[segment.tier] if slot not in slots)
        if not draining:
            others.extend(slot for slot in slots if self.state[slot] == State.FREE)
        self.free[segment.tier] = others

    def slots_of(self, segment: Segment) -> range:
        return range(segment.number * self.slots_per_segment, (segment.number + 1) * self.slots_per_segment)

    def segment_of(self, slot: int) -> Segment:
        segment = self.segments[slot // self.slots_per_segment]
        assert segment is not None
        return segment

    def place(self, slot: int) -> Place:
        return Place(self.segment_of(slot).serial, slot % self.slots_per_segment, self.generation[slot])

    def take(self, tier: Tier, tenant: int) -> int | None:
        """A free slot, for writing."""
        if not self.free[tier]:
            return None
        slot = self.free[tier].popleft()
        self.state[slot], self.tenant[slot] = State.WRITING, tenant
        self.generation[slot] += 1
        return slot

    def give_back(self, slot: int) -> None:
        """Last in the queue: whoever still reads it has time to notice."""
        self.state[slot], self.key[slot] = State.FREE, None
        segment = self.segment_of(slot)
        if not segment.draining:
            self.free[segment.tier].append(slot)


__all__ = ["Place", "Segment", "SlotTable", "State", "Tier"]
