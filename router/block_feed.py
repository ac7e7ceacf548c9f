"""Numbered block changes, from each source into the index: what was missed is noticed and never guessed.

A source is one tier of one instance. It numbers its changes from 1 on, and each batch tells the number of its last one.

  state    from                                                        believed
  SYNCED   a batch that begins with 'cleared', or goes on where the    all that was told
           last one ended, or is the first and begins with number 1
  LOST     any other batch                                             nothing, until a batch begins with 'cleared'

The caller asks a source for such a batch once, when `batch` says that it was lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shoal.proto.errors import BadMessage
from shoal.router.prefix_index import PrefixIndex, Tier

Change = tuple[str, Sequence[bytes]]  # kind: 'stored' | 'removed' | 'cleared'
_Source = tuple[str, Tier]


@dataclass(frozen=True, slots=True)
class Holding:
    """What was known of one source when its changes were heard up to `sequence`; the first to be forgotten first."""

    instance: str
    tier: Tier
    sequence: int
    hashes: tuple[bytes, ...]


class BlockFeed:
    """Tells `index` what each instance holds; owner of how far each source was heard (None: LOST)."""

    def __init__(self, index: PrefixIndex) -> None:
        self._index = index
        self._heard: dict[_Source, int | None] = {}

    def join(self, instance: str) -> None:
        self.leave(instance)
        self._index.join(instance)
        self._heard |= {(instance, tier): 0 for tier in Tier}

    def leave(self, instance: str) -> None:
        self._index.leave(instance)
        for tier in Tier:
            self._heard.pop((instance, tier), None)

    def batch(self, instance: str, changes: Sequence[Change], sequence: int, tier: Tier = Tier.DEVICE) -> bool:
        """`sequence`: the number of the last change. True: the source is lost now, and must be asked to begin anew.
        Strangers are late ones and never lost. Raises BadMessage for a kind that does not exist."""
        source = (instance, tier)
        if source not in self._heard:
            return False
        heard, anew = self._heard[source], bool(changes) and changes[0][0] == "cleared"
        if anew or (heard is not None and heard + len(changes) == sequence):
            self._heard[source] = sequence
            for kind, hashes in changes:
                self.change(instance, kind, hashes, tier)
            return False
        self._heard[source] = None
        self._index.clear(instance, tier)
        return heard is not None

    def change(self, instance: str, kind: str, hashes: Sequence[bytes], tier: Tier = Tier.DEVICE) -> None:
        """One change of a source that needs no numbers: it cannot lose any."""
        match kind:
            case "stored":
                self._index.stored(instance, hashes, tier)
            case "removed":
                self._index.removed(instance, hashes, tier)
            case "cleared":
                self._index.clear(instance, tier)
            case _:
                raise BadMessage(f"block change of {instance}: unknown kind {kind!r:.40}")

    def holdings(self) -> list[Holding]:
        """Everything known, for a warm restart."""
        known = ((source, heard) for source, heard in self._heard.items() if heard is not None)
        held = (Holding(*source, heard, tuple(self._index.held(*source))) for source, heard in known)
        return [holding for holding in held if holding.hashes]

    def restore(self, holdings: Iterable[Holding]) -> None:
        """Into sources that have joined and said nothing yet. What each says next confirms it or takes it back."""
        for holding in holdings:
            source = (holding.instance, holding.tier)
            if self._heard.get(source) == 0:
                self._heard[source] = holding.sequence
                self._index.stored(holding.instance, holding.hashes[::-1], holding.tier)


__all__ = ["BlockFeed", "Change", "Holding"]
