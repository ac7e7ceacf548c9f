"""Block changes of one engine as each watcher needs them: everything once at the start, then what changed. Bounded per
watcher.

A watcher that falls more than MAX_PENDING changes behind is told to clear and gets the present set again: late, but
never wrong.
"""

from __future__ import annotations

from collections import Counter

from shoal.instance.seam import BlockChange

MAX_PENDING = 65_536
SNAPSHOT_CHUNK = 4_096


class BlockLog:
    """Owns the cached block hashes and one pending list per watcher. `sequence` counts all changes ever made.

    vLLM may cache one content in several blocks and reports each copy; watchers hear of the first copy stored and the
    last one removed.
    """

    def __init__(self) -> None:
        self.cached: Counter[bytes] = Counter()
        self.pending: dict[int, list[BlockChange]] = {}
        self.sequence = 0

    def watch(self, watcher: int) -> None:
        self.pending[watcher] = self.snapshot()

    def unwatch(self, watcher: int) -> None:
        self.pending.pop(watcher, None)

    def snapshot(self) -> list[BlockChange]:
        hashes = tuple(self.cached)
        chunks = [hashes[i : i + SNAPSHOT_CHUNK] for i in range(0, len(hashes), SNAPSHOT_CHUNK)]
        return [BlockChange("cleared"), *(BlockChange("stored", chunk) for chunk in chunks)]

    def record(self, changes: list[BlockChange]) -> None:
        news = [net for change in changes if (net := self._net(change)) is not None]
        self.sequence += len(news)
        for watcher, pending in self.pending.items():
            pending.extend(news)
            if len(pending) > MAX_PENDING:
                self.pending[watcher] = self.snapshot()

    def _net(self, change: BlockChange) -> BlockChange | None:
        """The part of a change that is one for the content, not just for a copy of it."""
        if change.kind == "cleared":
            self.cached.clear()
            return change
        hashes = []
        for block_hash in change.hashes:
            before = self.cached[block_hash]
            self.cached[block_hash] = before + (1 if change.kind == "stored" else -1)
            if self.cached[block_hash] <= 0:
                del self.cached[block_hash]
            if before == (0 if change.kind == "stored" else 1):
                hashes.append(block_hash)
        return BlockChange(change.kind, tuple(hashes)) if hashes else None

    def take(self, watcher: int) -> list[BlockChange]:
        pending = self.pending.get(watcher)
        if not pending:
            return []
        self.pending[watcher] = []
        return pending


__all__ = ["BlockLog"]
