"""Priority classes. Engines order by the request's own number, smaller first; planners and placement by its class."""

from __future__ import annotations

from enum import IntEnum


class Rank(IntEnum):
    """Smaller is served first and moved last."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


def rank_of(priority: int) -> Rank:
    """Below 0 is high, 0 normal, above 0 low: whoever says nothing is in the middle."""
    return Rank.HIGH if priority < 0 else Rank.NORMAL if priority == 0 else Rank.LOW


__all__ = ["Rank", "rank_of"]
