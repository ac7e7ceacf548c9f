"""The KV memory of the step model: how many blocks are free, and which contents are cached.

Blocks have no identity here, only contents: a sealed block is the key of its content (the hash chain), an unsealed one
is a number. So an unused cache costs no memory, however large it is. Each block is in exactly one of four places:

  blank     free, holds nothing             a counter
  idle      free, cached, nobody uses it    least recently used first
  shared    cached and held by `refs` > 0 requests
  private   held by one request: not sealed yet, or a second copy of what is cached already

As in vLLM, blanks are handed out before idle ones, a released request's last block is evicted before its first, and
second copies are not merged. One simplification: a second copy is forgotten when its holder lets go, where vLLM keeps
it cached; so a content is reported as stored once and as removed once.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice

Key = Hashable


class BrokenLedger(AssertionError):
    """The model's own counts contradict each other: a bug here, never a full cache."""


class Change(Enum):
    STORED = "stored"
    REMOVED = "removed"
    CLEARED = "cleared"


@dataclass(slots=True)
class Holding:
    """The blocks of one request: what `take` and `share` gave and `release` takes back. Only ModelCache writes it."""

    shared: list[Key]
    private: int = 0

    @property
    def blocks(self) -> int:
        return len(self.shared) + self.private


class ModelCache:
    """Sole owner of the counts. Ask (`free`, `match`, `cost`), then take: taking more than is free is a bug."""

    __slots__ = ("_changes", "_idle", "_records", "_refs", "blank", "total")

    def __init__(self, total_blocks: int, *, record_changes: bool) -> None:
        self.total = total_blocks
        self.blank = total_blocks
        self._refs: dict[Key, int] = {}
        self._idle: OrderedDict[Key, None] = OrderedDict()
        self._changes: list[tuple[Change, list[Key]]] = []
        self._records = record_changes

    @property
    def free(self) -> int:
        return self.blank + len(self._idle)

    @property
    def cached(self) -> int:
        return len(self._refs)

    def __contains__(self, key: Key) -> bool:
        return key in self._refs

    def match(self, keys: Sequence[Key], limit: int) -> int:
        """How many of the first `limit` keys are cached, up to the first miss. Renews nothing."""
        refs = self._refs
        hits = 0
        for key in islice(keys, limit):
            if key not in refs:
                break
            hits += 1
        return hits

    def cost(self, keys: Sequence[Key], hits: int) -> int:
        """Free blocks that sharing the first `hits` keys uses up: the idle ones among them."""
        idle = self._idle
        return sum(key in idle for key in islice(keys, hits))

    def share(self, holding: Holding, keys: Iterable[Key]) -> None:
        """Add cached blocks to the holding."""
        for key in keys:
            refs = self._refs[key]
            if refs == 0:
                del self._idle[key]
            self._refs[key] = refs + 1
            holding.shared.append(key)

    def take(self, holding: Holding, blocks: int) -> None:
        """Add unsealed blocks to the holding; evicts where nothing is blank."""
        self._take(blocks)
        holding.private += blocks

    def _take(self, blocks: int) -> None:
        evictions = blocks - self.blank
        if evictions <= 0:
            self.blank -= blocks
            return
        if evictions > len(self._idle):
            raise BrokenLedger(f"asked for {blocks} blocks, free are {self.free} of {self.total}")
        self.blank = 0
        for _ in range(evictions):
            key, _none = self._idle.popitem(last=False)
            del self._refs[key]
            self._record(Change.REMOVED, key)

    def seal(self, holding: Holding, key: Key) -> None:
        """One private block of the holding is full and has this content from now on."""
        if key in self._refs:
            return
        self._refs[key] = 1
        holding.shared.append(key)
        holding.private -= 1
        self._record(Change.STORED, key)

    def release(self, holding: Holding) -> None:
        """Give everything back. What is cached stays so until its room is needed."""
        self.blank += holding.private
        holding.private = 0
        refs, idle = self._refs, self._idle
        for key in reversed(holding.shared):
            left = refs[key] - 1
            refs[key] = left
            if left == 0:
                idle[key] = None
        holding.shared.clear()

    def install(self, keys: Iterable[Key]) -> int:
        """Cache contents that came from elsewhere, as idle blocks, until nothing is free. Returns how many were new."""
        wanted = list(keys)
        holding = Holding([])
        new = 0
        for key in wanted:
            if key in self._refs:
                self.share(holding, (key,))
                continue
            if self.free == 0:
                break
            self.take(holding, 1)
            self.seal(holding, key)
            new += 1
        self.release(holding)
        return new

    def clear(self) -> bool:
        """Forget all contents; refused while any block is held."""
        if self.free != self.total:
            return False
        self._refs.clear()
        self._idle.clear()
        self.blank = self.total
        if self._records:
            self._changes.append((Change.CLEARED, []))
        return True

    def take_changes(self) -> list[tuple[Change, list[Key]]]:
        """What came and went since the last call, in order; neighbours of one kind are one entry."""
        changes, self._changes = self._changes, []
        return changes

    def _record(self, change: Change, key: Key) -> None:
        if not self._records:
            return
        if self._changes and self._changes[-1][0] is change:
            self._changes[-1][1].append(key)
        else:
            self._changes.append((change, [key]))

    def check(self, holdings: Sequence[Holding]) -> None:
        """Every block is in exactly one place and every reference has its holder, given all holdings there are."""
        held = Counter(key for holding in holdings for key in holding.shared)
        private = sum(holding.private for holding in holdings)
        if min((self.blank, *(holding.private for holding in holdings))) < 0:
            raise BrokenLedger(f"a negative count: blank {self.blank}")
        if self.blank + private + len(self._refs) != self.total:
            raise BrokenLedger(f"{self.blank} blank + {private} private + {len(self._refs)} cached is not {self.total}")
        if any(held[key] != refs for key, refs in self._refs.items()) or held.keys() - self._refs.keys():
            raise BrokenLedger("references do not match the holders")
        if set(self._idle) != {key for key, refs in self._refs.items() if refs == 0}:
            raise BrokenLedger("idle blocks are not those without a holder")


__all__ = ["BrokenLedger", "Change", "Holding", "Key", "ModelCache"]
