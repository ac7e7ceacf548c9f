"""Do the pool's books balance? For tests, and for whoever suspects that they do not."""

from __future__ import annotations

from collections import Counter

from shoal.instance.pool.ledger import Ledger
from shoal.instance.pool.slots import State, Tier


def check(ledger: Ledger) -> None:
    """Every slot is in the state that its list, lease, reservation or move says; nothing is counted twice."""
    slots = ledger.slots
    leased = Counter(ledger.index[key] for lease in ledger.leases.values() for key in lease.keys)
    writing = [slot for one in ledger.reservations.values() for slot in one.slots.values()] + list(ledger.moving)
    listed = [*ledger.disk, *(slot for s in ledger.shares.values() for way in (s.cold, s.hot) for slot in way)]
    assert {s: n for s, n in enumerate(slots.leases) if n} == leased
    assert ledger.leased == len(leased)
    assert sorted(s for s, state in enumerate(slots.state) if state == State.WRITING) == sorted(writing)
    assert sorted([*listed, *leased]) == [s for s, state in enumerate(slots.state) if state >= State.COLD]
    assert all(slots.key[slot] == key for key, slot in ledger.index.items())
    assert len(ledger.index) == sum(key is not None for key in slots.key)
    for share in ledger.shares.values():
        mine = [s for s in ledger.index.values() if slots.tenant[s] == share.number]
        assert share.used == sum(slots.segment_of(s).tier is Tier.MEMORY for s in mine)
    free = sorted(slot for queue in slots.free.values() for slot in queue)
    assert free == [
        slot for slot, state in enumerate(slots.state) if state == State.FREE and not slots.segment_of(slot).draining
    ]


__all__ = ["check"]
