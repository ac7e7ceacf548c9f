"""Lists of slots from oldest to newest, all over one pair of arrays: eight bytes per slot, every act O(1)."""

from __future__ import annotations

from array import array

NONE = -1


class Links:
    """Neighbours of every slot. A slot is in at most one list."""

    def __init__(self) -> None:
        self.older, self.newer = array("i"), array("i")

    def grow(self, slots: int) -> None:
        self.older.extend([NONE] * slots)
        self.newer.extend([NONE] * slots)


class Recency:
    """One such list."""

    __slots__ = ("links", "newest", "oldest", "size")

    def __init__(self, links: Links) -> None:
        self.links, self.oldest, self.newest, self.size = links, NONE, NONE, 0

    def push(self, slot: int) -> None:
        """As the newest."""
        self._join(self.newest, slot)
        self._join(slot, NONE)
        self.size += 1

    def remove(self, slot: int) -> None:
        self._join(self.links.older[slot], self.links.newer[slot])
        self.size -= 1

    def replace(self, slot: int, other: int) -> None:
        """`other` takes the place of `slot`."""
        older, newer = self.links.older[slot], self.links.newer[slot]
        self._join(older, other)
        self._join(other, newer)

    def _join(self, older: int, newer: int) -> None:
        if older == NONE:
            self.oldest = newer
        else:
            self.links.newer[older] = newer
        if newer == NONE:
            self.newest = older
        else:
            self.links.older[newer] = older

    def __iter__(self):
        slot = self.oldest
        while slot != NONE:
            newer = self.links.newer[slot]
            yield slot
            slot = newer


__all__ = ["NONE", "Links", "Recency"]
