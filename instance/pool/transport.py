"""Ways for blocks to travel between nodes, fastest first, and the choice between them. Pure but for `Path`'s makers.

arena   the peer's files can be mapped here: one copy
nixl    one-sided reads by the NIXL library: CMA, CUDA IPC, RDMA or TCP underneath, as it finds
stream  a gRPC stream: always there

A path is used at the rate that a probe measured, not at the one in its name: UCX inside NIXL falls back to TCP in
silence, thirteen times slower. A path that fails is left for the next one, which is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from shoal.instance.pool.arena import Bytes
from shoal.proto.v1 import pool_pb2 as pb

MIN_PIECE_BYTES = 256 << 10


class Path(Protocol):
    name: str

    def read(self, grant: pb.Grant, into: Sequence[Bytes], *, wait_s: float) -> None:
        """Fills one buffer per block of the grant; whether rightly is the caller's to verify. Raises Unavailable."""

    def close(self) -> None: ...


@dataclass(slots=True)
class Rates:
    """What is known of the paths to one peer. `gib_per_s`: measured, of those that work."""

    gib_per_s: dict[str, float] = field(default_factory=dict)
    falls: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def chosen(self) -> str:
        """The fastest; empty: none works."""
        return max(self.gib_per_s, key=lambda name: self.gib_per_s[name], default="")

    def fell(self, name: str) -> str:
        """It failed: it is out until it is probed again. Returns the path that takes over."""
        self.gib_per_s.pop(name, None)
        self.falls[name, self.chosen] += 1
        return self.chosen


def batches(lengths: Sequence[int], min_bytes: int = MIN_PIECE_BYTES) -> list[range]:
    """Neighbouring blocks to send as one message, each at least `min_bytes` but the last."""
    out: list[range] = []
    start = total = 0
    for position, length in enumerate(lengths):
        total += length
        if total >= min_bytes:
            out.append(range(start, position + 1))
            start, total = position + 1, 0
    if start < len(lengths):
        out.append(range(start, len(lengths)))
    return out


def runs(spans: Iterable[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """(source, target, length) pieces, joined wherever both sides go on without a gap."""
    out: list[tuple[int, int, int]] = []
    for source, target, length in spans:
        if out and out[-1][0] + out[-1][2] == source and out[-1][1] + out[-1][2] == target:
            out[-1] = (out[-1][0], out[-1][1], out[-1][2] + length)
        else:
            out.append((source, target, length))
    return out


__all__ = ["MIN_PIECE_BYTES", "Path", "Rates", "batches", "runs"]
