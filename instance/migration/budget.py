"""How much of an instance its departing requests may take: moves at once, bytes in flight, link rate, and the share of
time in which the copy thread works. Pure.

A move has one parcel in flight, so the size of parcels bounds the bytes in flight. The copy thread competes with the
batch for memory bandwidth and, on CPU, for the core: with a duty of 0.25 it rests three times as long as it worked,
which bounds what copying can take from the batch to a quarter. A parked request's last blocks do not wait for any of
that: its client does.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class BudgetLimits:
    moves: int = 4
    followed: int = 64  # planned at admission: most of them wait for their prefill, and hold nothing
    arrivals: int = 16
    in_flight_bytes: int = 16 << 20
    least_parcel_bytes: int = 256 << 10
    rate_bytes_per_s: float = 1e9
    duty: float = 0.25


@dataclass(slots=True)
class Budget:
    """One per instance: owner of its moves under way, of the time up to which the link is spoken for, and of the sum
    of times spent on copying."""

    limits: BudgetLimits = field(default_factory=BudgetLimits)
    moves: int = 0
    followed: int = 0
    link_free_s: float = 0.0
    copy_s: float = 0.0

    def has_room(self, *, follows: bool = False) -> bool:
        return self.followed < self.limits.followed if follows else self.moves < self.limits.moves

    def begin(self, *, follows: bool = False) -> None:
        self.followed += follows
        self.moves += not follows

    def end(self, *, follows: bool = False) -> None:
        self.followed -= follows
        self.moves -= not follows

    def parcel_blocks(self, block_bytes: int) -> int:
        """Blocks of one parcel."""
        limits = self.limits
        parcel_bytes = max(limits.in_flight_bytes // limits.moves, limits.least_parcel_bytes)
        return max(1, parcel_bytes // block_bytes)

    def rest_s(self, copied_bytes: int, copy_s: float, now_s: float) -> float:
        """Wait so long before the next parcel, having worked `copy_s` on this one."""
        self.copy_s += copy_s
        start_s = max(self.link_free_s, now_s - copy_s)
        self.link_free_s = start_s + copied_bytes / self.limits.rate_bytes_per_s
        return max(copy_s * (1 / self.limits.duty - 1), self.link_free_s - now_s, 0.0)


__all__ = ["Budget", "BudgetLimits"]
