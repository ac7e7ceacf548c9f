"""Blocks of a peer whose arena can be mapped from here: same machine, same mount."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path as FilePath

import numpy as np

from shoal.instance.pool.arena import ArenaView, Bytes
from shoal.instance.pool.client import place_of
from shoal.proto.errors import Unavailable
from shoal.proto.v1 import pool_pb2 as pb


class ArenaPath:
    name = "arena"

    def __init__(self, facts: pb.PoolFacts) -> None:
        """Raises Unavailable where the peer's files are not seen."""
        if not any(list(FilePath(prefix).parent.glob(FilePath(prefix).name + "*")) for prefix in facts.prefixes):
            raise Unavailable(f"{facts.node_id}: its arena is not on this mount")
        self.view = ArenaView(facts.prefixes, facts.segment_slots, facts.slot_bytes)

    def read(self, grant: pb.Grant, into: Sequence[Bytes], *, wait_s: float) -> None:
        for block, buffer in zip(grant.blocks, into, strict=True):
            place = place_of(block)
            np.copyto(buffer, self.view.segment(place.segment).slot(place.index, buffer.nbytes))

    def close(self) -> None:
        """Mappings go with their last view."""


__all__ = ["ArenaPath"]
