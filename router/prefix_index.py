"""Which instance holds which KV block, as far as its block changes have told.

Owns the inverted index block hash -> instances, each instance being one bit of an int. Promises: `match` never names
an instance for a block whose removal it was told of, and no instance takes more than `max_blocks_per_instance`
entries (beyond it the blocks least recently stored or touched are forgotten, tails of a chain before their heads,
since a head without its tail still matches and not the reverse). It does not know whether a block still exists: a
match is a belief, and an engine recomputes what turns out to be gone.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt


class PrefixIndex:
    """Sole owner of the block ledger of all joined instances. An instance that never joined is ignored: its events
    are late ones."""

    def __init__(self, max_blocks_per_instance: int) -> None:
        self._max_blocks = max_blocks_per_instance
        self._holders: dict[bytes, int] = {}
        self._held: dict[str, OrderedDict[bytes, None]] = {}
        self._slots: dict[str, int] = {}
        self._names: list[str] = []
        self._free_slots: list[int] = []
        self._everyone = 0

    def join(self, instance: str) -> None:
        """A member with an empty cache. Joining again forgets what it held."""
        self.leave(instance)
        if self._free_slots:
            slot = heapq.heappop(self._free_slots)
            self._names[slot] = instance
        else:
            slot = len(self._names)
            self._names.append(instance)
        self._slots[instance] = slot
        self._held[instance] = OrderedDict()
        self._everyone |= 1 << slot

    def leave(self, instance: str) -> None:
        if instance not in self._slots:
            return
        self.clear(instance)
        slot = self._slots.pop(instance)
        del self._held[instance]
        self._everyone ^= 1 << slot
        heapq.heappush(self._free_slots, slot)

    def clear(self, instance: str) -> None:
        held = self._held.get(instance)
        if held:
            bit = 1 << self._slots[instance]
            for block in held:
                self._forget(block, bit)
            held.clear()

    def stored(self, instance: str, hashes: Sequence[bytes]) -> None:
        held = self._held.get(instance)
        if held is None:
            return
        bit = 1 << self._slots[instance]
        for block in reversed(hashes):
            held[block] = None
            held.move_to_end(block)
            self._holders[block] = self._holders.get(block, 0) | bit
        while len(held) > self._max_blocks:
            self._forget(held.popitem(last=False)[0], bit)

    def removed(self, instance: str, hashes: Sequence[bytes]) -> None:
        held = self._held.get(instance, OrderedDict())
        for block in hashes:
            if block in held:
                del held[block]
                self._forget(block, 1 << self._slots[instance])

    def touch(self, instance: str, hashes: Sequence[bytes]) -> None:
        """These blocks are about to be used there: forget them last."""
        held = self._held.get(instance, OrderedDict())
        for block in reversed(hashes):
            if block in held:
                held.move_to_end(block)

    def match(self, hashes: Sequence[bytes]) -> dict[str, int]:
        """How many leading blocks of the chain each instance holds; those with none are left out."""
        out: dict[str, int] = {}
        alive = self._alive(hashes)
        for depth, (mask, beyond) in enumerate(zip(alive, [*alive, 0][1:], strict=True), start=1):
            for slot in _bits(mask ^ beyond):
                out[self._names[slot]] = depth
        return out

    def depths(self, hashes: Sequence[bytes]) -> npt.NDArray[np.int64]:
        """`match` as an array over slots (see `slot`), for many instances at once."""
        alive = self._alive(hashes)
        if not alive:
            return np.zeros(len(self._names), dtype=np.int64)
        width = (len(self._names) + 7) // 8
        masks = np.frombuffer(b"".join([mask.to_bytes(width, "little") for mask in alive]), dtype=np.uint8)
        grid = np.unpackbits(masks.reshape(len(alive), width), axis=1, bitorder="little")
        return grid[:, : len(self._names)].sum(axis=0, dtype=np.int64)

    def slot(self, instance: str) -> int:
        return self._slots[instance]

    def blocks(self, instance: str) -> int:
        """Entries held for this instance."""
        return len(self._held.get(instance, ()))

    def __len__(self) -> int:
        return len(self._holders)

    def check(self) -> None:
        """Both directions of the ledger agree, and every bound is kept."""
        rebuilt: dict[bytes, int] = {}
        for instance, held in self._held.items():
            assert len(held) <= self._max_blocks, (instance, len(held))
            for block in held:
                rebuilt[block] = rebuilt.get(block, 0) | 1 << self._slots[instance]
        assert rebuilt == self._holders
        assert self._everyone == sum(1 << slot for slot in self._slots.values())
        assert all(self._names[slot] == instance for instance, slot in self._slots.items())
        assert len(self._slots) + len(self._free_slots) == len(self._names)

    def _alive(self, hashes: Sequence[bytes]) -> list[int]:
        """Per depth from 1 on, who holds the chain up to there. Ends where nobody does; each mask is a subset of the
        one before."""
        masks: list[int] = []
        holders = self._holders.get
        alive = self._everyone
        for block in hashes:
            alive &= holders(block, 0)
            if not alive:
                break
            masks.append(alive)
        return masks

    def _forget(self, block: bytes, bit: int) -> None:
        left = self._holders[block] & ~bit
        if left:
            self._holders[block] = left
        else:
            del self._holders[block]


def _bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


__all__ = ["PrefixIndex"]
