"""Who has how much of the pool's memory, and whose block goes next.

Within a tenant: least recently used first, and blocks that were used again after they were stored (hot) only once no
other is left, so that one long scan cannot wash out what is shared. Between tenants: the one that has used up most of
its quota pays. Hot are at most PROTECTED_SHARE of the blocks that are not leased; the longest unused beyond that
turn cold.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from shoal.instance.pool.recency import NONE, Links, Recency

PROTECTED_SHARE = 0.8


@dataclass(slots=True)
class Share:
    """One tenant. `used` counts its memory slots, those being written and leased ones too; the lists hold only what may
    be evicted.
    """

    tenant: str
    number: int
    links: Links
    quota: int | None = None
    used: int = 0
    cold: Recency = field(init=False)
    hot: Recency = field(init=False)

    def __post_init__(self) -> None:
        self.cold, self.hot = Recency(self.links), Recency(self.links)

    @property
    def evictable(self) -> int:
        return self.cold.size + self.hot.size

    def limit(self, capacity: int) -> int:
        return capacity if self.quota is None else min(self.quota, capacity)

    def oldest(self) -> int | None:
        slot = self.cold.oldest if self.cold.size else self.hot.oldest
        return None if slot == NONE else slot


def who_pays(shares: Iterable[Share], capacity: int) -> Share | None:
    """None: nothing can be evicted."""
    candidates = [share for share in shares if share.evictable]
    return max(candidates, key=lambda share: share.used / max(1, share.limit(capacity)), default=None)


def who_cools(shares: Iterable[Share], capacity: int, leased: int) -> Share | None:
    """Whose oldest hot block must turn cold. None: there are not too many."""
    hot = [share for share in shares if share.hot.size]
    if sum(share.hot.size for share in hot) <= PROTECTED_SHARE * max(0, capacity - leased):
        return None
    return max(hot, key=lambda share: share.hot.size / max(1, share.limit(capacity)), default=None)


__all__ = ["PROTECTED_SHARE", "Share", "who_cools", "who_pays"]
