"""The pool's books: which block lies where, who may write or read it, and what goes when room is needed.

Pure: the time and the names of leases and reservations are arguments, bytes are somebody else's. A block is found only
once it is published; from then on it never changes. What is leased is never evicted. What has no room is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from shoal.instance.pool.holds import Lease, Move, Reservation
from shoal.instance.pool.recency import Recency
from shoal.instance.pool.shares import Share, who_cools, who_pays
from shoal.instance.pool.slots import Place, Segment, SlotTable, State, Tier


class Ledger:
    """Sole owner of the slot table, the index, leases, reservations and the tenants' shares."""

    def __init__(
        self, slots_per_segment: int, *, quotas: Mapping[str, int] | None = None, pin_share: float = 0.25
    ) -> None:
        self.slots = SlotTable(slots_per_segment)
        self.quotas, self.pin_share = dict(quotas or {}), pin_share
        self.index: dict[bytes, int] = {}  # slots being written too: one writer per block
        self.shares: dict[str, Share] = {}
        self.by_number: list[Share] = []
        self.disk = Recency(self.slots.links)
        self.leases: dict[str, Lease] = {}
        self.reservations: dict[str, Reservation] = {}
        self.moving: dict[int, Move] = {}  # by target slot
        self.leased = 0  # blocks under at least one lease
        self.counts: Counter[str] = Counter()

    # -- writing

    def reserve(self, name: str, tenant: str, keys: Sequence[bytes], *, deadline_s: float) -> Reservation:
        """Grants slots in the order of the keys until there is no room; what follows is useless without its parents and
        so is refused with it.
        """
        share = self._share(tenant)
        reservation = Reservation(tenant, deadline_s)
        for position, key in enumerate(keys):
            held = self.index.get(key)
            if held is not None:
                if self.slots.state[held] != State.WRITING:
                    self._touch(held)
                    reservation.stored.append(key)
                continue
            slot = self._find_room(share)
            if slot is None:
                reservation.refused = len(keys) - position
                break
            self.slots.key[slot], self.index[key], reservation.slots[key] = key, slot, slot
            share.used += 1
        self.counts["refused"] += reservation.refused
        if reservation.slots:
            self.reservations[name] = reservation
        return reservation

    def publish(self, name: str, keys: Sequence[bytes]) -> list[bool]:
        """Their bytes and checksums are in place: from here on they are found. False: not stored, the reservation is
        over or never held this key.
        """
        reservation = self.reservations.get(name)
        slots = [reservation.slots.pop(key, None) if reservation else None for key in keys]
        for slot in reversed(slots):  # of a run the last is the first to go
            if slot is not None:
                self.slots.state[slot] = State.COLD
                self._list(slot)
        if reservation and not reservation.slots:
            del self.reservations[name]
        self.counts["stored"] += sum(slot is not None for slot in slots)
        return [slot is not None for slot in slots]

    def cancel(self, name: str) -> None:
        reservation = self.reservations.pop(name, None)
        for slot in reservation.slots.values() if reservation else ():
            self._forget(slot)

    # -- reading

    def match(self, keys: Iterable[bytes]) -> int:
        """How many leading blocks are here. A peek: nothing is renewed or kept by it."""
        index, state, found = self.index, self.slots.state, 0
        for key in keys:
            slot = index.get(key)
            if slot is None or state[slot] < State.COLD:
                break
            found += 1
        return found

    def lease(
        self, name: str, keys: Sequence[bytes], *, deadline_s: float, pin: bool = False
    ) -> list[tuple[bytes, Place]]:
        """Keeps the leading blocks that are here, in the order of the keys; none if there are none. A pin may be cut
        short: pins have a share of the pool, and no more.
        """
        kept = tuple(keys[: self.match(keys)])
        if pin:
            kept = kept[: max(0, int(self.pin_share * self.slots.capacity[Tier.MEMORY]) - self._pinned())]
        if not kept:
            return []
        self.release(name)
        self.leases[name] = Lease(kept, deadline_s, pin)
        for key in kept:
            slot = self.index[key]
            if not self.slots.leases[slot]:
                self._unlist(slot)
                self.leased += 1
            self.slots.leases[slot] += 1
        self.counts["leased"] += len(kept)
        return [(key, self.slots.place(self.index[key])) for key in kept]

    def places(self, name: str) -> list[tuple[bytes, Place]]:
        """Where the blocks of a lease are now: a drain may have moved them. Empty: the lease is over."""
        lease = self.leases.get(name)
        return [(key, self.slots.place(self.index[key])) for key in lease.keys] if lease else []

    def renew(self, name: str, *, deadline_s: float) -> bool:
        lease = self.leases.get(name)
        if lease is not None:
            lease.deadline_s = max(lease.deadline_s, deadline_s)
        return lease is not None

    def release(self, name: str) -> bool:
        lease = self.leases.pop(name, None)
        for key in reversed(lease.keys) if lease else ():
            slot = self.index[key]
            self.slots.leases[slot] -= 1
            if not self.slots.leases[slot]:
                self.leased -= 1
                self.slots.state[slot] = State.HOT
                self._list(slot)
        return lease is not None

    def _pinned(self) -> int:
        return sum(len(lease.keys) for lease in self.leases.values() if lease.pin)

    # -- going

    def evict(self, keys: Iterable[bytes]) -> int:
        """These, unless leased or being written. Returns how many went."""
        before = self.counts["evicted"]
        for key in keys:
            slot = self.index.get(key)
            if slot is not None and self.is_evictable(slot):
                self._drop(slot)
        return self.counts["evicted"] - before

    def condemn(self, key: bytes) -> None:
        """Its bytes are damaged: no lease holds it and nobody finds it any longer."""
        slot = self.index[key]
        for lease in self.leases.values():
            lease.keys = tuple(one for one in lease.keys if one != key)
        if self.slots.leases[slot]:
            self.slots.leases[slot] = 0
            self.leased -= 1
            self._list_of(slot).push(slot)
        self._drop(slot)
        self.counts["damaged"] += 1

    def expire(self, now_s: float) -> int:
        """Ends the leases and reservations whose deadline has passed. Returns how many blocks they held."""
        leases = [name for name, lease in self.leases.items() if lease.deadline_s <= now_s]
        reservations = [name for name, one in self.reservations.items() if one.deadline_s <= now_s]
        held = sum(len(self.leases[name].keys) for name in leases)
        held += sum(len(self.reservations[name].slots) for name in reservations)
        for name in leases:
            self.release(name)
        for name in reservations:
            self.cancel(name)
        self.counts["expired"] += held
        return held

    def is_evictable(self, slot: int) -> bool:
        return self.slots.state[slot] >= State.COLD and not self.slots.leases[slot]

    # -- moving: for drains and for the tier below

    def begin_move(self, source: int, tier: Tier) -> Move | None:
        """None: no free slot there (nothing is evicted for it but the oldest on disk)."""
        key = self.slots.key[source]
        assert key is not None, "a slot without a block cannot move"
        target = self.slots.take(tier, self.slots.tenant[source])
        if target is None and tier is Tier.DISK and self.disk.size:
            self._drop(self.disk.oldest)
            target = self.slots.take(tier, self.slots.tenant[source])
        if target is None:
            return None
        move = self.moving[target] = Move(key, source, target, self.slots.generation[source])
        return move

    def drain(self, segment: Segment, draining: bool = True) -> None:
        """Begin, or give up, to empty a segment; see drain.py."""
        self.slots.set_draining(segment, draining)
        self.cool()

    def end_move(self, move: Move, *, copied: bool) -> bool:
        """From here on the block is at the target, leases included; False if it went elsewhere meanwhile."""
        slots, source, target = self.slots, move.source, move.target
        del self.moving[target]
        same = slots.generation[source] == move.source_generation and self.index.get(move.key) == source
        if not (copied and same):
            slots.give_back(target)
            return False
        slots.state[target], slots.key[target] = slots.state[source], move.key
        slots.leases[target], slots.leases[source] = slots.leases[source], 0
        self._relist(source, target)
        self.index[move.key] = target
        share = self.by_number[slots.tenant[source]]
        tiers = slots.segment_of(source).tier, slots.segment_of(target).tier
        share.used += (tiers[1] is Tier.MEMORY) - (tiers[0] is Tier.MEMORY)
        slots.give_back(source)
        return True

    def _relist(self, source: int, target: int) -> None:
        if self.slots.leases[target]:
            return
        if self.slots.segment_of(source).tier is self.slots.segment_of(target).tier:
            self._list_of(source).replace(source, target)
        else:
            self._list_of(source).remove(source)
            self._list(target)

    # -- within

    def _share(self, tenant: str) -> Share:
        share = self.shares.get(tenant)
        if share is None:
            share = Share(tenant, len(self.by_number), self.slots.links, self.quotas.get(tenant))
            self.shares[tenant] = share
            self.by_number.append(share)
        return share

    def _find_room(self, share: Share) -> int | None:
        capacity = self.slots.capacity[Tier.MEMORY]
        over = share.used >= share.limit(capacity)
        slot = None if over else self.slots.take(Tier.MEMORY, share.number)
        while slot is None:
            payer = share if over else who_pays(self.shares.values(), capacity)
            oldest = payer.oldest() if payer else None
            if oldest is None:
                return None
            self._drop(oldest)  # in a draining segment this frees nothing to take: go on
            slot = self.slots.take(Tier.MEMORY, share.number)
        return slot

    def _touch(self, slot: int) -> None:
        if not self.slots.leases[slot]:
            self._unlist(slot)
            self.slots.state[slot] = State.HOT
            self._list(slot)

    def _list_of(self, slot: int) -> Recency:
        if self.slots.segment_of(slot).tier is Tier.DISK:
            return self.disk
        share = self.by_number[self.slots.tenant[slot]]
        return share.hot if self.slots.state[slot] == State.HOT else share.cold

    def _list(self, slot: int) -> None:
        self._list_of(slot).push(slot)
        if self.slots.state[slot] == State.HOT:
            self.cool()

    def cool(self) -> None:
        """After a block turned hot or capacity shrank."""
        while share := who_cools(self.shares.values(), self.slots.capacity[Tier.MEMORY], self.leased):
            slot = share.hot.oldest
            share.hot.remove(slot)
            self.slots.state[slot] = State.COLD
            share.cold.push(slot)

    def _unlist(self, slot: int) -> None:
        self._list_of(slot).remove(slot)

    def _drop(self, slot: int) -> None:
        self._unlist(slot)
        self.counts["evicted"] += 1
        self._forget(slot)

    def _forget(self, slot: int) -> None:
        key = self.slots.key[slot]
        assert key is not None
        del self.index[key]
        if self.slots.segment_of(slot).tier is Tier.MEMORY:
            self.by_number[self.slots.tenant[slot]].used -= 1
        self.slots.give_back(slot)


__all__ = ["Ledger"]
