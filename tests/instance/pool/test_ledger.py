"""The pool's books, event by event."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shoal.instance.pool.audit import check
from shoal.instance.pool.drain import cheapest, demotions, drain_step
from shoal.instance.pool.ledger import Ledger
from shoal.instance.pool.slots import State, Tier


def key(number: int) -> bytes:
    return number.to_bytes(48, "big")


def keys(numbers: Iterable[int]) -> list[bytes]:
    return [key(number) for number in numbers]


def ledger(slots: int = 8, *, per_segment: int = 4, disk: int = 0, **more) -> Ledger:
    made = Ledger(per_segment, **more)
    for tier, count in ((Tier.MEMORY, slots), (Tier.DISK, disk)):
        for _ in range(count // per_segment):
            made.slots.add_segment(tier)
    return made


def store(books: Ledger, numbers: Iterable[int], tenant: str = "a") -> list[bool]:
    wanted = keys(numbers)
    granted = books.reserve("w", tenant, wanted, deadline_s=1.0)
    stored = books.publish("w", list(granted.slots))
    return [k in granted.stored or k in granted.slots for k in wanted] if all(stored) else stored


def here(books: Ledger, numbers: Iterable[int]) -> list[int]:
    return [number for number in numbers if books.match([key(number)])]


# -- writing and finding


def test_a_block_is_found_only_after_it_was_published():
    books = ledger()
    books.reserve("w", "a", keys([1, 2]), deadline_s=1.0)
    assert books.match(keys([1, 2])) == 0
    assert books.publish("w", keys([1])) == [True]
    assert books.match(keys([1, 2])) == 1
    check(books)


def test_a_match_is_the_leading_run_and_ends_at_the_first_gap():
    books = ledger()
    store(books, [1, 2, 4])
    assert books.match(keys([1, 2, 3, 4])) == 2
    assert books.match(keys([3, 4])) == 0


def test_publishing_after_the_deadline_says_that_nothing_is_stored():
    books = ledger()
    books.reserve("w", "a", keys([1]), deadline_s=1.0)
    assert books.expire(now_s=0.9) == 0
    assert books.expire(now_s=1.0) == 1
    assert books.publish("w", keys([1])) == [False]
    assert here(books, [1]) == []
    check(books)


def test_of_two_writers_of_one_block_the_first_has_the_slot():
    books = ledger()
    books.reserve("w1", "a", keys([1]), deadline_s=1.0)
    second = books.reserve("w2", "a", keys([1, 2]), deadline_s=1.0)
    assert list(second.slots) == keys([2])
    assert second.stored == []
    assert books.publish("w1", keys([1])) == [True]
    assert books.reserve("w3", "a", keys([1]), deadline_s=1.0).stored == keys([1])


def test_a_full_pool_of_leased_blocks_refuses_and_says_how_many():
    books = ledger(4)
    store(books, [1, 2, 3, 4])
    books.lease("l", keys([1, 2, 3, 4]), deadline_s=9.0)
    refused = books.reserve("w", "a", keys([5, 6]), deadline_s=1.0)
    assert (refused.refused, refused.slots) == (2, {})
    assert here(books, range(1, 7)) == [1, 2, 3, 4]


def test_a_slot_is_never_given_out_twice_under_one_generation():
    books, seen = ledger(4), set()
    for number in range(100):
        granted = books.reserve("w", "a", keys([number]), deadline_s=1.0)
        place = books.slots.place(granted.slots[key(number)])
        assert place not in seen
        seen.add(place)
        books.publish("w", keys([number]))


def test_a_segment_that_comes_back_has_another_serial_and_later_generations():
    books = ledger(4)
    store(books, [1])
    (_, before), *_ = books.lease("l", keys([1]), deadline_s=1.0)
    books.release("l")
    books.evict(keys([1]))
    segment = books.slots.segments[0]
    books.drain(segment)
    books.slots.drop_segment(segment)
    books.slots.add_segment(Tier.MEMORY)
    for number in range(4):
        store(books, [number])
    (_, after), *_ = books.lease("l", keys([0]), deadline_s=1.0)
    assert after.segment != before.segment
    assert after.generation > before.generation


# -- leases


def test_a_leased_block_is_not_evicted_whatever_comes():
    books = ledger(4)
    store(books, [1, 2])
    books.lease("l", keys([1, 2]), deadline_s=9.0)
    for number in range(10, 30):
        store(books, [number])
    assert books.evict(keys([1])) == 0
    assert here(books, [1, 2]) == [1, 2]
    assert books.release("l")
    assert not books.release("l")
    assert books.evict(keys([1])) == 1
    check(books)


def test_a_lease_ends_by_itself_and_a_peek_does_not_renew_it():
    books = ledger(4)
    store(books, [1])
    books.lease("l", keys([1]), deadline_s=1.0)
    assert books.match(keys([1])) == 1
    assert books.expire(now_s=1.0) == 1
    assert books.evict(keys([1])) == 1


def test_a_renewed_lease_lives_until_its_later_deadline():
    books = ledger(4)
    store(books, [1])
    books.lease("l", keys([1]), deadline_s=1.0)
    assert books.renew("l", deadline_s=5.0)
    assert books.expire(now_s=4.9) == 0
    assert books.expire(now_s=5.0) == 1
    assert not books.renew("l", deadline_s=9.0)


def test_two_leases_of_one_block_are_counted():
    books = ledger(4)
    store(books, [1])
    books.lease("l1", keys([1]), deadline_s=1.0)
    books.lease("l2", keys([1]), deadline_s=9.0)
    books.expire(now_s=2.0)
    assert books.evict(keys([1])) == 0
    check(books)


def test_pins_may_take_their_share_of_the_pool_and_no_more():
    books = ledger(8, pin_share=0.25)
    store(books, range(8))
    assert len(books.lease("p1", keys([0]), deadline_s=9.0, pin=True)) == 1
    assert len(books.lease("p2", keys([1, 2, 3]), deadline_s=9.0, pin=True)) == 1
    assert books.lease("p3", keys([4]), deadline_s=9.0, pin=True) == []
    assert len(books.lease("l", keys([4]), deadline_s=9.0)) == 1


# -- eviction and quotas


def test_the_least_recently_used_goes_first_and_of_a_run_its_end():
    books = ledger(4)
    store(books, [1, 2])
    store(books, [3, 4])
    store(books, [5])
    assert here(books, range(1, 6)) == [1, 3, 4, 5]


def test_a_scan_does_not_wash_out_what_was_used_again():
    books = ledger(8)
    store(books, [1, 2])
    books.lease("l", keys([1, 2]), deadline_s=9.0)
    books.release("l")
    for number in range(10, 100):
        store(books, [number])
    assert here(books, [1, 2]) == [1, 2]


def test_hot_blocks_beyond_the_protected_share_turn_cold_again():
    books = ledger(8)
    store(books, range(8))
    for number in range(8):
        books.lease("l", keys([number]), deadline_s=9.0)
        books.release("l")
    assert books.shares["a"].hot.size == 6  # of 8, 0.8 are protected
    store(books, [100])
    assert here(books, range(8)) == [1, 2, 3, 4, 5, 6, 7]


def test_at_its_quota_a_tenant_pays_with_its_own_blocks():
    books = ledger(8, quotas={"a": 2})
    store(books, [10, 11], "b")
    for number in (1, 2, 3):
        store(books, [number], "a")
    assert here(books, [10, 11, 1, 2, 3]) == [10, 11, 2, 3]
    books.lease("l", keys([2, 3]), deadline_s=9.0)
    assert books.reserve("w", "a", keys([4]), deadline_s=1.0).refused == 1
    assert books.shares["a"].used == 2


def test_in_a_full_pool_the_largest_tenant_pays():
    books = ledger(8)
    store(books, range(10, 12), "small")
    store(books, range(6), "large")
    store(books, [20, 21, 22], "small")
    assert (books.shares["small"].used, books.shares["large"].used) == (4, 4)
    assert here(books, [10, 11, 20, 21, 22]) != []
    check(books)


# -- drains and the tier below


def drain(books: Ledger, segment, *, copied: bool = True) -> int:
    """Returns how many blocks were stuck."""
    books.drain(segment)
    for _ in range(100):
        step = drain_step(books, segment, limit=3)
        if step.done:
            books.slots.drop_segment(segment)
            return 0
        if step.stuck and not step.moves:
            books.drain(segment, False)
            return step.stuck
        for move in step.moves:
            books.end_move(move, copied=copied)
        check(books)
    raise AssertionError("the drain does not come to an end")


def test_a_drain_keeps_what_is_leased_and_hot_and_takes_the_room_of_cold_blocks():
    books = ledger(12, per_segment=4)
    store(books, range(12))
    books.lease("h", keys([4, 5]), deadline_s=9.0)
    books.release("h")
    books.lease("l", keys([0, 9]), deadline_s=9.0)
    books.lease("l0", keys([0]), deadline_s=9.0)
    books.lease("l9", keys([9]), deadline_s=9.0)
    assert drain(books, cheapest(books)) == 0
    assert set(here(books, range(12))) >= {0, 4, 5, 9}
    assert drain(books, cheapest(books)) == 0
    assert set(here(books, range(12))) >= {0, 4, 9}  # of two free slots, hot may have one
    assert [place for _, place in books.places("l0")] == [books.slots.place(books.index[key(0)])]
    check(books)


def test_a_drain_without_room_for_leased_blocks_is_stuck_and_loses_nothing():
    books = ledger(8)
    store(books, range(8))
    books.lease("l", keys(range(8)), deadline_s=9.0)
    assert drain(books, cheapest(books)) == 4
    assert here(books, range(8)) == list(range(8))
    assert books.slots.capacity[Tier.MEMORY] == 8
    check(books)


def test_a_drain_takes_leased_blocks_to_disk_where_memory_has_no_room():
    books = ledger(8, disk=4)
    store(books, range(8))
    books.lease("l", keys(range(8)), deadline_s=9.0)
    assert drain(books, cheapest(books)) == 0
    assert here(books, range(8)) == list(range(8))
    assert books.shares["a"].used == 4
    check(books)


def test_when_all_is_hot_a_drain_keeps_what_was_used_last():
    books = ledger(16)
    store(books, range(12))
    for number in range(12):
        books.lease("h", keys([number]), deadline_s=9.0)
        books.release("h")
    books.lease("l", keys([0, 1]), deadline_s=9.0)
    while books.slots.capacity[Tier.MEMORY] > 8:
        assert drain(books, cheapest(books)) == 0
    hot = int(0.8 * (8 - 2))
    assert set(here(books, range(12))) >= {0, 1, *range(12 - hot, 12)}
    check(books)


def test_a_drain_waits_for_writers():
    books = ledger(4)
    books.reserve("w", "a", keys([1]), deadline_s=1.0)
    segment = books.slots.segments[0]
    books.drain(segment)
    assert drain_step(books, segment, limit=9).waiting == 1
    books.expire(now_s=1.0)
    assert drain_step(books, segment, limit=9).done


def test_a_move_of_a_block_that_went_meanwhile_changes_nothing():
    books = ledger(8)
    store(books, [1])
    move = books.begin_move(books.index[key(1)], Tier.MEMORY)
    books.evict(keys([1]))
    store(books, [1])
    assert not books.end_move(move, copied=True)
    assert here(books, [1]) == [1]
    check(books)


def test_cold_blocks_go_to_disk_before_memory_is_full_and_are_still_found():
    books = ledger(8, disk=4)
    store(books, range(8))
    for move in demotions(books, free_share=0.5, limit=99):
        assert books.end_move(move, copied=True)
    assert len(books.slots.free[Tier.MEMORY]) == 4
    assert here(books, range(8)) == list(range(8))
    store(books, range(8, 12))
    for move in demotions(books, free_share=0.25, limit=99):
        books.end_move(move, copied=True)
    assert books.disk.size == 4  # the oldest on disk made room
    check(books)


# -- anything at all


class AnyUse(RuleBasedStateMachine):
    """Every sequence of acts leaves books that balance, keeps leased blocks, and never finds an unpublished one."""

    @initialize(quota=st.integers(1, 8), disk=st.sampled_from([0, 4]))
    def begin(self, quota, disk):
        self.books, self.now_s = ledger(12, disk=disk, quotas={"b": quota}), 0.0
        self.leased: dict[str, list[bytes]] = {}
        self.moves = []

    @rule(
        name=st.sampled_from("wxy"),
        tenant=st.sampled_from("ab"),
        first=st.integers(0, 20),
        run=st.integers(1, 6),
        wait_s=st.integers(1, 9),
    )
    def reserve(self, name, tenant, first, run, wait_s):
        if name not in self.books.reservations:
            wanted = keys(range(first, first + run))
            granted = self.books.reserve(name, tenant, wanted, deadline_s=self.now_s + wait_s)
            assert len(granted.slots) + len(granted.stored) + granted.refused <= run

    @rule(name=st.sampled_from("wxy"), chance=st.randoms(use_true_random=False))
    def publish(self, name, chance: random.Random):
        held = list(self.books.reservations[name].slots) if name in self.books.reservations else [key(1)]
        some = chance.sample(held, chance.randint(1, len(held)))
        there = name in self.books.reservations
        assert self.books.publish(name, some) == [there] * len(some)
        assert not there or all(self.books.match([k]) for k in some)

    @rule(name=st.sampled_from("lmn"), first=st.integers(0, 20), run=st.integers(1, 6), pin=st.booleans())
    def lease(self, name, first, run, pin):
        kept = self.books.lease(name, keys(range(first, first + run)), deadline_s=self.now_s + run, pin=pin)
        if kept:
            self.leased[name] = [k for k, _ in kept]

    @rule(name=st.sampled_from("lmn"))
    def release(self, name):
        assert self.books.release(name) == (name in self.leased)
        self.leased.pop(name, None)

    @rule(seconds=st.integers(1, 4))
    def pass_time(self, seconds):
        self.now_s += seconds
        self.books.expire(self.now_s)
        self.leased = {name: held for name, held in self.leased.items() if name in self.books.leases}

    @rule(numbers=st.lists(st.integers(0, 26), max_size=5))
    def evict(self, numbers):
        self.books.evict(keys(numbers))

    @rule(limit=st.integers(1, 4))
    def demote(self, limit):
        self.moves += demotions(self.books, free_share=0.5, limit=limit)

    @rule()
    def drain_some(self):
        segment = cheapest(self.books)
        if segment and self.books.slots.capacity[Tier.MEMORY] > 4:
            self.books.drain(segment)
        for each in [s for s in self.books.slots.segments if s and s.draining]:
            step = drain_step(self.books, each, limit=3)
            self.moves += step.moves
            if step.done:
                self.books.slots.drop_segment(each)
            elif step.stuck:
                self.books.drain(each, False)

    @rule(copied=st.booleans())
    def end_moves(self, copied):
        for move in self.moves:
            self.books.end_move(move, copied=copied)
        self.moves = []

    @rule()
    def grow(self):
        if self.books.slots.capacity[Tier.MEMORY] < 16:
            self.books.slots.add_segment(Tier.MEMORY)

    @invariant()
    def all_is_well(self):
        if hasattr(self, "books"):
            check(self.books)
            for name, held in self.leased.items():
                assert [k for k, _ in self.books.places(name)] == held
                assert self.books.match(held) == len(held)
            states = self.books.slots.state
            assert all(states[s] >= State.WRITING for s in self.books.index.values())


TestAnyUse = pytest.mark.timeout(600)(AnyUse.TestCase)
TestAnyUse.settings = settings(stateful_step_count=30, max_examples=5000 if os.environ.get("SHOAL_NIGHTLY") else 60)
