"""Which blocks of a segment go where before it is dropped. Nothing that is leased or hot is lost: it moves within
memory, taking the room of cold blocks if need be, else to disk, else the drain is stuck and says so. What counts as hot
shrinks with the capacity (shares.py), so only leases can make it stuck. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil

from shoal.instance.pool.holds import Move
from shoal.instance.pool.ledger import Ledger
from shoal.instance.pool.slots import Segment, State, Tier


@dataclass(slots=True)
class DrainStep:
    """`moves` are to be copied now. `waiting`: slots of writers and of moves under way. `stuck`: leased or hot blocks
    without any room to go to. All zero: the segment is empty.
    """

    moves: list[Move] = field(default_factory=list)
    waiting: int = 0
    stuck: int = 0

    @property
    def done(self) -> bool:
        return not (self.moves or self.waiting or self.stuck)


def cheapest(ledger: Ledger) -> Segment | None:
    """The memory segment whose drain has the least to move; None if none may be drained."""
    slots = ledger.slots
    memory = [s for s in slots.segments if s is not None and s.tier is Tier.MEMORY and not s.draining]

    def must_move(segment: Segment) -> int:
        span = slots.slots_of(segment)
        return sum(slots.state[slot] in (State.HOT, State.WRITING) or slots.leases[slot] > 0 for slot in span)

    return min(memory, key=must_move, default=None)


def drain_step(ledger: Ledger, segment: Segment, *, limit: int) -> DrainStep:
    """The next copies, at most `limit`. The segment must be draining."""
    step, slots = DrainStep(), ledger.slots
    moving = {move.source for move in ledger.moving.values()}
    for slot in slots.slots_of(segment):
        state = slots.state[slot]
        if len(step.moves) >= limit:
            break
        if state == State.WRITING or slot in moving:
            step.waiting += 1
        elif state >= State.COLD:
            _clear(ledger, slot, step)
    return step


def _clear(ledger: Ledger, slot: int, step: DrainStep) -> None:
    must_live = not ledger.is_evictable(slot) or ledger.slots.state[slot] == State.HOT
    move = ledger.begin_move(slot, Tier.MEMORY)
    if move is None and must_live and _evict_cold(ledger):
        move = ledger.begin_move(slot, Tier.MEMORY)
    if move is None:
        move = ledger.begin_move(slot, Tier.DISK)
    key = ledger.slots.key[slot]
    if move is not None:
        step.moves.append(move)
    elif must_live:
        step.stuck += 1
    elif key is not None:
        ledger.evict([key])


def _evict_cold(ledger: Ledger) -> bool:
    """Frees a slot of a segment that stays, by its tenant's oldest cold block."""
    slots = ledger.slots
    for share in sorted(ledger.shares.values(), key=lambda share: -share.used):
        for slot in share.cold:
            key = slots.key[slot]
            if key is not None and not slots.segment_of(slot).draining:
                ledger.evict([key])
                return True
    return False


def demotions(ledger: Ledger, *, free_share: float, limit: int) -> list[Move]:
    """Cold blocks to copy to disk so that at least this share of memory will be free for new ones."""
    moves: list[Move] = []
    wanted = ceil(free_share * ledger.slots.capacity[Tier.MEMORY]) - len(ledger.slots.free[Tier.MEMORY])
    moving = {move.source for move in ledger.moving.values()}
    for share in sorted(ledger.shares.values(), key=lambda share: -share.used):
        for slot in list(share.cold):
            if len(moves) >= min(limit, wanted) or not ledger.slots.capacity[Tier.DISK]:
                return moves
            if slot not in moving and (move := ledger.begin_move(slot, Tier.DISK)) is not None:
                moves.append(move)
    return moves


__all__ = ["DrainStep", "cheapest", "demotions", "drain_step"]
