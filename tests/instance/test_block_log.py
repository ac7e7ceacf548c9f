"""Every watcher can tell what the engine's cache holds, whenever it came and however slowly it reads."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shoal.instance import block_log
from shoal.instance.block_log import SNAPSHOT_CHUNK, BlockLog
from shoal.instance.seam import BlockChange


def stored(*hashes: bytes) -> BlockChange:
    return BlockChange("stored", hashes)


def removed(*hashes: bytes) -> BlockChange:
    return BlockChange("removed", hashes)


CLEARED = BlockChange("cleared")


def heard(changes: list[BlockChange], known: set[bytes] | None = None) -> set[bytes]:
    """What a watcher believes after these changes."""
    known = set() if known is None else known
    for change in changes:
        match change.kind:
            case "stored":
                known |= set(change.hashes)
            case "removed":
                known -= set(change.hashes)
            case _:
                known.clear()
    return known


def test_a_watcher_hears_the_present_set_first_and_then_only_news() -> None:
    log = BlockLog()
    log.record([stored(b"a", b"b"), removed(b"a")])
    log.watch(1)
    assert log.take(1) == [CLEARED, stored(b"b")]
    assert log.take(1) == []
    log.record([stored(b"c")])
    assert log.take(1) == [stored(b"c")]


def test_a_large_set_comes_in_pieces() -> None:
    log = BlockLog()
    hashes = [n.to_bytes(4, "big") for n in range(2 * SNAPSHOT_CHUNK + 1)]
    log.record([stored(*hashes)])
    log.watch(1)
    changes = log.take(1)
    assert [len(change.hashes) for change in changes] == [0, SNAPSHOT_CHUNK, SNAPSHOT_CHUNK, 1]
    assert heard(changes) == set(hashes)


def test_copies_of_one_content_are_one_block_to_a_watcher() -> None:
    log = BlockLog()
    log.watch(1)
    log.take(1)
    log.record([stored(b"a"), stored(b"a", b"b")])
    assert log.take(1) == [stored(b"a"), stored(b"b")]
    log.record([removed(b"a")])
    assert log.take(1) == []
    log.record([removed(b"a", b"b")])
    assert log.take(1) == [removed(b"a", b"b")]
    assert not log.cached


def test_the_removal_of_what_was_never_stored_is_no_news() -> None:
    log = BlockLog()
    log.watch(1)
    log.take(1)
    log.record([removed(b"a")])
    assert log.take(1) == []
    assert log.sequence == 0
    log.record([stored(b"a")])
    assert log.take(1) == [stored(b"a")]


def test_clearing_forgets_every_copy() -> None:
    log = BlockLog()
    log.record([stored(b"a"), stored(b"a"), CLEARED, stored(b"a"), removed(b"a")])
    log.watch(1)
    assert log.take(1) == [CLEARED]


def test_the_sequence_counts_what_all_watchers_are_told_be_there_any_or_not() -> None:
    log = BlockLog()
    log.record([stored(b"a"), stored(b"a"), CLEARED])
    assert log.sequence == 2


def test_a_watcher_that_falls_too_far_behind_gets_the_set_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_log, "MAX_PENDING", 10)
    log = BlockLog()
    log.watch(1)
    log.watch(2)
    for n in range(200):
        log.record([stored(bytes([n])), removed(bytes([n]))])
        log.take(2)
        assert len(log.pending[1]) <= 10
    log.record([stored(b"last")])
    assert heard(log.take(1)) == {b"last"}
    assert log.take(2) == [stored(b"last")]


def test_a_watcher_that_left_is_kept_nothing_for() -> None:
    log = BlockLog()
    log.watch(1)
    log.unwatch(1)
    log.record([stored(b"a")])
    assert log.pending == {}
    assert log.take(1) == []


class AnySequence(RuleBasedStateMachine):
    """Blocks, often copies of one content, come and go; watchers come, read now and then, and go."""

    def __init__(self) -> None:
        super().__init__()
        self.log = BlockLog()
        self.copies: Counter[bytes] = Counter()
        self.beliefs: dict[int, set[bytes]] = {}
        self.last = 0

    hashes = st.lists(st.sampled_from([b"a", b"b", b"c", b"d"]), min_size=1, max_size=5)

    @rule(hashes=hashes)
    def store(self, hashes: list[bytes]) -> None:
        self.copies.update(hashes)
        self.log.record([stored(*hashes)])

    @rule(hashes=hashes)
    def remove(self, hashes: list[bytes]) -> None:
        there = list((self.copies & Counter(hashes)).elements())
        self.copies.subtract(there)
        self.copies = +self.copies
        self.log.record([removed(*there)] if there else [])

    @rule()
    def clear(self) -> None:
        self.copies.clear()
        self.log.record([CLEARED])

    @rule()
    def come(self) -> None:
        self.last += 1
        self.beliefs[self.last] = {b"nonsense from a former life"}
        self.log.watch(self.last)

    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        if self.beliefs:
            watcher = data.draw(st.sampled_from(sorted(self.beliefs)))
            heard(self.log.take(watcher), self.beliefs[watcher])
            assert self.beliefs[watcher] == set(self.copies)

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        if self.beliefs:
            watcher = data.draw(st.sampled_from(sorted(self.beliefs)))
            self.log.unwatch(watcher)
            del self.beliefs[watcher]

    @invariant()
    def the_log_knows_every_copy(self) -> None:
        assert self.log.cached == self.copies
        assert set(self.log.pending) == set(self.beliefs)


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(stateful_step_count=25)
