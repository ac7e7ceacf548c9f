"""Which instance can get which KV block from which tier, as far as block events have told.

Owns the inverted index block hash -> instances, each instance being one bit of an int, one index per tier. Salt and
adapter are in the hashes, so nothing here can match across tenants. Promises: `depths` never counts a block whose
removal it was told of, and there are at most `max_blocks_per_instance` entries per instance and tier and about
`max_blocks` per tier. Beyond that the blocks least recently stored or touched are forgotten, tails of a chain before
their heads, since a head without its tail still matches and not the reverse. It does not know whether a block still
exists: a match is a belief, and an engine recomputes what turns out to be gone.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from enum import IntEnum
from functools import reduce
from itertools import accumulate, islice, repeat, takewhile
from operator import and_, or_, xor

import numpy as np
import numpy.typing as npt

MAX_BLOCKS = 1 << 22  # entries of one tier over all instances: some 0.7 GB when full
_DIGITS = 24
_POWERS = 2.0 ** np.arange(_DIGITS)


class Tier(IntEnum):
    """Where a block lies, as seen from an instance; the fastest first."""

    DEVICE = 0
    POOL = 1
    DISK = 2


class PrefixIndex:
    """Sole owner of the block ledger of all joined instances. An instance that never joined is ignored: its events
    are late ones."""

    def __init__(self, max_blocks_per_instance: int, max_blocks: int = MAX_BLOCKS) -> None:
        self._max_blocks_per_instance, self._max_blocks = max_blocks_per_instance, max_blocks
        self._slots: dict[str, int] = {}
        self._width = 0
        self._free_slots: list[int] = []
        self._tiers = tuple(_TierIndex() for _ in Tier)

    def join(self, instance: str) -> None:
        """A member with empty caches. Joining again forgets what it held."""
        self.leave(instance)
        former_bound = self._bound
        if self._free_slots:
            slot = heapq.heappop(self._free_slots)
        else:
            slot, self._width = self._width, self._width + 1
        self._slots[instance] = slot
        for tier in self._tiers:
            tier.held[slot] = {}
            if self._bound < former_bound:
                for other in tier.held:
                    tier.trim(other, self._bound)

    def leave(self, instance: str) -> None:
        if instance not in self._slots:
            return
        self.clear(instance)
        slot = self._slots.pop(instance)
        for tier in self._tiers:
            del tier.held[slot]
        heapq.heappush(self._free_slots, slot)

    def clear(self, instance: str, *tiers: Tier) -> None:
        """It holds nothing in these tiers any more; none named: in all."""
        for tier in tiers or Tier:
            if instance in self._slots:
                self._tiers[tier].clear(self._slots[instance])

    def stored(self, instance: str, hashes: Sequence[bytes], tier: Tier = Tier.DEVICE) -> None:
        slot = self._slots.get(instance)
        if slot is not None:
            self._tiers[tier].store(slot, hashes)
            self._tiers[tier].trim(slot, self._bound)

    def removed(self, instance: str, hashes: Sequence[bytes], tier: Tier = Tier.DEVICE) -> None:
        slot = self._slots.get(instance)
        if slot is not None:
            self._tiers[tier].remove(slot, hashes)

    def touch(self, instance: str, hashes: Sequence[bytes], tier: Tier = Tier.DEVICE) -> None:
        """These blocks are about to be used there: forget them last. Costs nothing while the bound is far."""
        slot = self._slots.get(instance)
        if slot is not None and 2 * len(self._tiers[tier].held[slot]) > self._bound:
            self._tiers[tier].touch(slot, hashes)

    def depths(self, hashes: Sequence[bytes], reach: Tier = Tier.DEVICE) -> npt.NDArray[np.float64]:
        """How many leading blocks of the chain each slot (see `slot`) can get from tiers as fast as `reach` or
        faster.

        `alive[d]` has a bit for each instance that holds the chain up to depth d + 1, and each is a subset of the one
        before. So bit j of an instance's depth is the parity of its bits in every 2**j-th of them, and a few XORs of
        long ints count for all instances at once.
        """
        alive = list(takewhile(bool, accumulate(self._holders(hashes, reach), and_)))
        if not alive:
            return np.zeros(self._width)
        digits = [reduce(xor, alive[(1 << j) - 1 :: 1 << j]) for j in range(len(alive).bit_length())]
        row_bytes = (self._width + 7) // 8
        packed = np.frombuffer(b"".join([digit.to_bytes(row_bytes, "little") for digit in digits]), dtype=np.uint8)
        bits = np.unpackbits(packed.reshape(-1, row_bytes), axis=1, count=self._width, bitorder="little")
        depths: npt.NDArray[np.float64] = _POWERS[: len(digits)] @ bits.astype(np.float64)
        return depths

    def match(self, hashes: Sequence[bytes], reach: Tier = Tier.DEVICE) -> dict[str, int]:
        """`depths` by name; those with none are left out."""
        depths = self.depths(hashes, reach)
        return {name: int(depths[slot]) for name, slot in self._slots.items() if depths[slot]}

    def slot(self, instance: str) -> int:
        return self._slots[instance]

    def holds(self, tier: Tier) -> bool:
        """False: no instance is known to have anything there."""
        return bool(self._tiers[tier].holders)

    def count(self, instance: str) -> int:
        """Blocks known on its device."""
        return len(self._tiers[Tier.DEVICE].held[self._slots[instance]])

    def held(self, instance: str, tier: Tier = Tier.DEVICE) -> list[bytes]:
        """The blocks known of this instance, the first to be forgotten first."""
        return list(self._tiers[tier].held[self._slots[instance]]) if instance in self._slots else []

    def __len__(self) -> int:
        """Distinct blocks, each tier for itself."""
        return sum(len(tier.holders) for tier in self._tiers)

    def check(self) -> None:
        """Both directions of the ledger agree, and every bound is kept."""
        assert len(self._slots) + len(self._free_slots) == self._width
        for tier in self._tiers:
            assert sorted(tier.held) == sorted(self._slots.values())
            tier.check(self._bound)

    @property
    def _bound(self) -> int:
        """Blocks per instance and tier."""
        return max(min(self._max_blocks_per_instance, self._max_blocks // max(len(self._slots), 1)), 1)

    def _holders(self, hashes: Sequence[bytes], reach: Tier) -> Iterator[int]:
        masks: Iterator[int] = map(self._tiers[Tier.DEVICE].holders.get, hashes, repeat(0))
        for tier in self._tiers[1 : reach + 1]:
            if tier.holders:
                masks = map(or_, masks, map(tier.holders.get, hashes, repeat(0)))
        return masks


class _TierIndex:
    """One tier. `holders`: block -> bits of the slots; `held`: slot -> its blocks, the first to be forgotten first."""

    def __init__(self) -> None:
        self.holders: dict[bytes, int] = {}
        self.held: dict[int, dict[bytes, None]] = {}

    def store(self, slot: int, hashes: Sequence[bytes]) -> None:
        held, holders, bit = self.held[slot], self.holders, 1 << slot
        for block in reversed(hashes):
            if block in held:
                del held[block]
            else:
                holders[block] = holders.get(block, 0) | bit
            held[block] = None

    def trim(self, slot: int, bound: int) -> None:
        """A sixteenth at a time: taking the first key of a dict over and over would scan its holes each time."""
        held = self.held[slot]
        if len(held) > bound:
            for block in list(islice(held, len(held) - bound + bound // 16)):
                del held[block]
                self._forget(block, 1 << slot)

    def remove(self, slot: int, hashes: Sequence[bytes]) -> None:
        held = self.held[slot]
        for block in hashes:
            if block in held:
                del held[block]
                self._forget(block, 1 << slot)

    def touch(self, slot: int, hashes: Sequence[bytes]) -> None:
        held = self.held[slot]
        for block in reversed(hashes):
            if block in held:
                del held[block]
                held[block] = None

    def clear(self, slot: int) -> None:
        for block in self.held[slot]:
            self._forget(block, 1 << slot)
        self.held[slot].clear()

    def check(self, bound: int) -> None:
        rebuilt: dict[bytes, int] = {}
        for slot, held in self.held.items():
            assert len(held) <= bound, (slot, len(held))
            for block in held:
                rebuilt[block] = rebuilt.get(block, 0) | 1 << slot
        assert rebuilt == self.holders

    def _forget(self, block: bytes, bit: int) -> None:
        left = self.holders[block] & ~bit
        if left:
            self.holders[block] = left
        else:
            del self.holders[block]


__all__ = ["MAX_BLOCKS", "PrefixIndex", "Tier"]
