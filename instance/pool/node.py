"""One node's pool, without its wire: the books and the bytes together, and the slow work on both.

Owns a Ledger and an Arena per tier, and is the only one to touch either; every act takes the one lock for microseconds,
and bytes are copied outside it. Raises nothing for a miss, a refusal or a full pool: those are answers.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shoal.instance.pool.arena import SHM, Arena, SegmentMap
from shoal.instance.pool.drain import cheapest, demotions, drain_step
from shoal.instance.pool.holds import Move
from shoal.instance.pool.ledger import Ledger
from shoal.instance.pool.seal import Header, Sealer
from shoal.instance.pool.slots import Place, Segment, State, Tier
from shoal.proto.errors import Overloaded

MAX_LEASE_S = 120.0  # longer than any transfer; pins have a limit of their own
MAX_PIN_S = 1800.0
COPIES_PER_STEP = 64
DRAIN_POLL_S = 0.002
FREE_SHARE = 0.05  # of memory, kept free by copying to disk ahead of need


@dataclass(frozen=True, slots=True)
class PoolSizes:
    """`segment_slots` blocks are the unit in which memory and disk grow and shrink."""

    slot_bytes: int
    segment_slots: int
    memory_segments: int
    disk_segments: int = 0
    disk_folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Granted:
    """Blocks under one name until `deadline_s` (this node's monotonic clock), in the order that was asked for."""

    name: str
    deadline_s: float
    blocks: tuple[tuple[bytes, Place], ...] = ()
    stored: tuple[bytes, ...] = ()
    refused: int = 0


@dataclass(frozen=True, slots=True)
class Resized:
    """`stuck`: leased or hot blocks that had no room to go to until the deadline, `busy`: slots that were still being
    written or moved. `reason` empty: done as asked.
    """

    segments: int
    stuck: int = 0
    busy: int = 0
    reason: str = ""


class PoolNode:
    """Thread-safe. `close` ends it and removes its files."""

    def __init__(
        self,
        node_id: str,
        sizes: PoolSizes,
        secret: str,
        *,
        quotas: Mapping[str, int] | None = None,
        folder: Path = SHM,
    ) -> None:
        self.node_id, self.sizes, self.sealer = node_id, sizes, Sealer(secret)
        self.lock, self.resizing = threading.Lock(), threading.Lock()
        self.ledger = Ledger(sizes.segment_slots, quotas=quotas)
        self.arenas = {Tier.MEMORY: Arena(folder, sizes.segment_slots, sizes.slot_bytes, node=node_id)}
        if sizes.disk_folder is not None:
            sizes.disk_folder.mkdir(parents=True, exist_ok=True)
            self.arenas[Tier.DISK] = Arena(sizes.disk_folder, sizes.segment_slots, sizes.slot_bytes, node=node_id)
        try:
            for tier, count in ((Tier.MEMORY, sizes.memory_segments), (Tier.DISK, sizes.disk_segments)):
                for _ in range(count):
                    self._add_segment(tier)
        except Overloaded:
            self.close()
            raise

    def close(self) -> None:
        for arena in self.arenas.values():
            arena.close()

    # -- the acts of the API

    def reserve(self, tenant: str, keys: Sequence[bytes], *, wait_s: float) -> Granted:
        name, deadline_s = secrets.token_hex(8), time.monotonic() + min(wait_s, MAX_LEASE_S)
        with self.lock:
            made = self.ledger.reserve(name, tenant, keys, deadline_s=deadline_s)
            blocks = tuple((key, self.ledger.slots.place(slot)) for key, slot in made.slots.items())
        return Granted(name, deadline_s, blocks, tuple(made.stored), made.refused)

    def publish(self, name: str, sealed: Sequence[tuple[bytes, bytes, int]]) -> list[bool]:
        """`sealed`: (key, seal, length) of blocks whose bytes are in place. Says of each whether it is stored."""
        with self.lock:
            self.ledger.expire(time.monotonic())
            reservation = self.ledger.reservations.get(name)
            for key, seal, length in sealed if reservation else ():
                slot = reservation.slots.get(key)
                if slot is not None:
                    place = self.ledger.slots.place(slot)
                    self.segment(place).set_header(place.index, Header(key, seal, place.generation, length))
            return self.ledger.publish(name, [key for key, _, _ in sealed])

    def cancel(self, name: str) -> None:
        with self.lock:
            self.ledger.cancel(name)

    def match(self, keys: Sequence[bytes]) -> int:
        with self.lock:
            return self.ledger.match(keys)

    def lease(self, keys: Sequence[bytes], *, wait_s: float, pin: bool = False) -> Granted:
        name = secrets.token_hex(8)
        deadline_s = time.monotonic() + min(wait_s, MAX_PIN_S if pin else MAX_LEASE_S)
        with self.lock:
            return Granted(name, deadline_s, tuple(self.ledger.lease(name, keys, deadline_s=deadline_s, pin=pin)))

    def places(self, name: str) -> list[tuple[bytes, Place]]:
        with self.lock:
            return self.ledger.places(name)

    def renew(self, name: str, *, wait_s: float) -> bool:
        with self.lock:
            return self.ledger.renew(name, deadline_s=time.monotonic() + min(wait_s, MAX_LEASE_S))

    def release(self, name: str) -> bool:
        with self.lock:
            return self.ledger.release(name)

    def evict(self, keys: Sequence[bytes]) -> int:
        with self.lock:
            return self.ledger.evict(keys)

    def damaged(self, key: bytes) -> bool:
        """A reader's checksum did not match. If it is so, nobody shall find that block again."""
        with self.lock:
            slot = self.ledger.index.get(key)
            if slot is None or self.ledger.slots.state[slot] < State.COLD:
                return False
            place = self.ledger.slots.place(slot)
            header = self.header(place)
            data = self.segment(place).slot(place.index, header.length)
            if self.sealer.fits(header, key, place.generation, [data]):
                return False
            self.ledger.condemn(key)
            return True

    # -- time and size

    def tick(self) -> None:
        """Ends what is over its deadline, and keeps some memory free by copying cold blocks to disk."""
        with self.lock:
            self.ledger.expire(time.monotonic())
            moves = demotions(self.ledger, free_share=FREE_SHARE, limit=COPIES_PER_STEP)
        self._perform(moves)

    def resize(self, segments: int, *, wait_s: float) -> Resized:
        """Towards so many memory segments. A shrink drains: it ends early rather than lose a leased or hot block."""
        deadline_s = time.monotonic() + wait_s
        with self.resizing:
            try:
                while self._memory_segments() < segments:
                    self._add_segment(Tier.MEMORY)
            except Overloaded as exc:
                return Resized(self._memory_segments(), reason=str(exc))
            result = Resized(self._memory_segments())
            while result.segments > max(1, segments) and not result.reason:
                result = self._shrink_by_one(deadline_s)
            return result

    def _shrink_by_one(self, deadline_s: float) -> Resized:
        with self.lock:
            segment = cheapest(self.ledger)
            assert segment is not None
            self.ledger.drain(segment)
        while True:
            with self.lock:
                self.ledger.expire(time.monotonic())
                step = drain_step(self.ledger, segment, limit=COPIES_PER_STEP)
                if step.done:
                    self._drop_segment(segment)
                    break
            self._perform(step.moves)
            if time.monotonic() > deadline_s:
                with self.lock:
                    self.ledger.drain(segment, False)
                words = f"{step.stuck} leased or hot blocks have no room, {step.waiting} slots are being written"
                return Resized(self._memory_segments(), step.stuck, step.waiting + len(step.moves), words)
            if not step.moves:
                time.sleep(DRAIN_POLL_S)
        return Resized(self._memory_segments())

    def _memory_segments(self) -> int:
        return self.ledger.slots.capacity[Tier.MEMORY] // self.sizes.segment_slots

    def _add_segment(self, tier: Tier) -> None:
        serial = self.ledger.slots.serials + 1
        self.arenas[tier].add(serial)  # takes long, and nobody knows it yet
        with self.lock:
            assert self.ledger.slots.add_segment(tier).serial == serial

    def _drop_segment(self, segment: Segment) -> None:
        self.ledger.slots.drop_segment(segment)
        self.arenas[segment.tier].drop(segment.serial)

    def _perform(self, moves: Sequence[Move]) -> None:
        for move in moves:
            with self.lock:
                source, target = self.ledger.slots.place(move.source), self.ledger.slots.place(move.target)
            copied = self._copy(source, target)
            with self.lock:
                self.ledger.end_move(move, copied=copied)

    def _copy(self, source: Place, target: Place) -> bool:
        """With its seal, unread: a damaged block moves too, so that leases hold, and fails every reader as before."""
        header = self.header(source)
        if header.generation != source.generation:
            return False
        data = self.segment(target).slot(target.index, header.length)
        np.copyto(data, self.segment(source).slot(source.index, header.length))
        header.generation = target.generation
        self.segment(target).set_header(target.index, header)
        return True

    # -- bytes

    def segment(self, place: Place) -> SegmentMap:
        for arena in self.arenas.values():
            if place.segment in arena.segments:
                return arena.segments[place.segment]
        raise KeyError(place.segment)

    def header(self, place: Place) -> Header:
        return self.segment(place).header(place.index)


__all__ = ["MAX_LEASE_S", "MAX_PIN_S", "Granted", "PoolNode", "PoolSizes", "Resized"]
