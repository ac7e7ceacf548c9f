"""Whatever is assigned, lost, repeated, late or missing: the client gets a prefix of the true stream, from one owner at
a time, and one outcome.
"""

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from shoal.cluster.journal import MAX_CRASHES, Journal, Outcome, Ticket, Verdict, fingerprint
from shoal.router.contract import RouteRequest

OWNERS = ("a", "b", "c")
LENGTH = 12


def truth(request_id: str) -> list[int]:
    return [random.Random(f"{request_id}/{i}").randrange(256) for i in range(LENGTH)]


def ticket(request_id: str, prompt_tokens: int = 7, max_new_tokens: int = LENGTH) -> Ticket:
    return Ticket(RouteRequest(request_id, prompt_tokens, max_new_tokens), b"", request_id.encode())


def opened(*request_ids: str) -> Journal:
    journal = Journal()
    for request_id in request_ids:
        journal.open(ticket(request_id))
    return journal


class JournalMachine(RuleBasedStateMachine):
    """A model next to it: what the client has of each request, and every (owner, epoch) that was ever right."""

    requests = Bundle("requests")

    def __init__(self) -> None:
        super().__init__()
        self.journal = Journal()
        self.delivered: dict[str, list[int]] = {}
        self.present: dict[str, tuple[str, int] | None] = {}
        self.former: dict[str, list[tuple[str, int]]] = {}
        self.crashes: dict[str, int] = {}
        self.ended: dict[str, Outcome] = {}

    @rule(target=requests)
    def open(self) -> str:
        request_id = f"r{len(self.delivered)}"
        self.journal.open(ticket(request_id))
        self.delivered[request_id], self.present[request_id] = [], None
        self.former[request_id], self.crashes[request_id] = [], 0
        return request_id

    @rule(request_id=requests, owner=st.sampled_from(OWNERS))
    def assign(self, request_id: str, owner: str) -> None:
        if request_id in self.ended:
            return
        before = self.present[request_id]
        epoch = self.journal.assign(request_id, owner).epoch
        assert all(epoch > former for _, former in self.former[request_id])
        if before is not None:
            self.former[request_id].append(before)
        self.present[request_id] = (owner, epoch)

    @rule(request_id=requests, start=st.integers(0, LENGTH), count=st.integers(0, 4))
    def output(self, request_id: str, start: int, count: int) -> None:
        """Of the present owner, in any order: next, repeated, overlapping, beyond a gap."""
        present = self.present[request_id]
        if present is not None:
            self._say(request_id, *present, start, count)

    @rule(request_id=requests, which=st.randoms(use_true_random=False), count=st.integers(1, 4))
    def late_output(self, request_id: str, which: random.Random, count: int) -> None:
        """Of any former owner, at exactly the index that is due: the most dangerous one."""
        if self.former[request_id]:
            owner, epoch = which.choice(self.former[request_id])
            verdict = self._say(request_id, owner, epoch, len(self.delivered[request_id]), count)
            assert verdict is Verdict.STALE

    @rule(request_id=requests, count=st.integers(1, 4))
    def next_output(self, request_id: str, count: int) -> None:
        present = self.present[request_id]
        if present is not None and request_id not in self.ended:
            index = len(self.delivered[request_id])
            assert self._say(request_id, *present, index, count) is Verdict.FRESH

    def _say(self, request_id: str, owner: str, epoch: int, start: int, count: int) -> Verdict:
        tokens = truth(request_id)[start : start + count]
        verdict = self.journal.accept(request_id, owner, epoch, start, tokens)
        if verdict is Verdict.FRESH:
            assert request_id not in self.ended
            assert (owner, epoch) == self.present[request_id], "two owners were believed"
            self.delivered[request_id] += tokens
        return verdict

    @rule(owner=st.sampled_from(OWNERS), crashed=st.booleans())
    def lose(self, owner: str, crashed: bool) -> None:
        orphans = self.journal.orphan(owner, crashed=crashed)
        mine = {r for r, present in self.present.items() if present and present[0] == owner and r not in self.ended}
        assert mine == {t.request_id for t in orphans.resubmit + orphans.quarantine}
        for request_id in mine:
            self._lose_owner(request_id)
            self.crashes[request_id] += crashed
        assert {t.request_id for t in orphans.quarantine} == {r for r in mine if self.crashes[r] >= MAX_CRASHES}
        assert all(self.delivered[t.request_id] == t.delivered for t in orphans.resubmit)
        started = [bool(t.delivered) for t in orphans.resubmit]
        assert started == sorted(started, reverse=True), "those that stream already come first"
        for given_up in orphans.quarantine:
            self._close(given_up.request_id, Outcome.QUARANTINED)

    @rule(request_id=requests)
    def release(self, request_id: str) -> None:
        if self.present[request_id] and request_id not in self.ended:
            self.journal.release(request_id)
            self._lose_owner(request_id)

    def _lose_owner(self, request_id: str) -> None:
        present = self.present[request_id]
        assert present is not None
        self.former[request_id].append(present)
        self.present[request_id] = None

    @rule(request_id=requests, outcome=st.sampled_from(Outcome))
    def close(self, request_id: str, outcome: Outcome) -> None:
        self._close(request_id, outcome)

    def _close(self, request_id: str, outcome: Outcome) -> None:
        closed = self.journal.close(request_id, outcome)
        assert (closed is None) == (request_id in self.ended), "each request ends once"
        self.ended.setdefault(request_id, outcome)

    @invariant()
    def the_books_agree(self) -> None:
        self.journal.check()
        assert sum(self.journal.outcomes.values()) == len(self.ended)
        assert self.journal.tickets.keys() == self.delivered.keys() - self.ended.keys()
        for request_id, open_ticket in self.journal.tickets.items():
            assert open_ticket.delivered == self.delivered[request_id]

    @invariant()
    @precondition(lambda self: self.delivered)
    def the_client_has_a_prefix_of_the_true_stream(self) -> None:
        for request_id, tokens in self.delivered.items():
            assert tokens == truth(request_id)[: len(tokens)]


TestAnyInterleaving = JournalMachine.TestCase
TestAnyInterleaving.settings = settings(stateful_step_count=40)


def test_a_gap_and_a_partial_overlap_are_told_from_a_repetition():
    journal = opened("r")
    journal.assign("r", "a")
    assert journal.accept("r", "a", 1, 0, [1, 2, 3]) is Verdict.FRESH
    assert journal.accept("r", "a", 1, 1, [2, 3]) is Verdict.REPEATED
    assert journal.accept("r", "a", 1, 4, [5]) is Verdict.BROKEN
    assert journal.accept("r", "a", 1, 2, [3, 4]) is Verdict.BROKEN
    assert journal.tickets["r"].delivered == [1, 2, 3]
    assert journal.verdicts == {Verdict.FRESH: 1, Verdict.REPEATED: 1, Verdict.BROKEN: 2}


@pytest.mark.parametrize(
    "owner, epoch, index",
    [("b", 1, 2), ("a", 2, 2), ("a", 0, 2), ("a", 1, 1), ("a", 1, 3)],
    ids=["not its owner", "a later epoch", "a former epoch", "tokens came since", "tokens are missing"],
)
def test_a_hand_over_changes_nothing_unless_owner_epoch_and_index_are_the_present_ones(owner, epoch, index):
    journal = opened("r")
    journal.assign("r", "a")
    journal.accept("r", "a", 1, 0, [1, 2])
    assert not journal.hand_over("r", owner, epoch, index, "c")
    assert not journal.hand_over("unknown", "a", 1, 2, "c")
    assert (journal.tickets["r"].owner, journal.tickets["r"].epoch) == ("a", 1)


def test_after_a_hand_over_only_the_target_is_believed():
    journal = opened("r")
    journal.assign("r", "a")
    journal.accept("r", "a", 1, 0, [1, 2])
    assert journal.hand_over("r", "a", 1, 2, "c")
    assert journal.accept("r", "a", 1, 2, [3]) is Verdict.STALE
    assert journal.accept("r", "c", 2, 2, [3]) is Verdict.FRESH
    assert not journal.hand_over("r", "a", 1, 2, "b")


def test_a_cut_or_silent_line_is_no_crash_of_the_request():
    journal = opened("r")
    for _ in range(5):
        journal.assign("r", "a")
        assert [t.request_id for t in journal.orphan("a", crashed=False).resubmit] == ["r"]
    assert (journal.tickets["r"].crashes, journal.tickets["r"].losses) == (0, 5)


def test_the_second_crash_gives_a_request_up_and_not_its_neighbours():
    journal = opened("r", "s")
    journal.assign("r", "a")
    journal.orphan("a", crashed=True)
    journal.assign("r", "b")
    journal.assign("s", "b")
    orphans = journal.orphan("b", crashed=True)
    assert ([t.request_id for t in orphans.quarantine], [t.request_id for t in orphans.resubmit]) == (["r"], ["s"])


def test_the_rest_of_a_moved_request_counts_its_delivered_tokens_as_context():
    moved = ticket("r", prompt_tokens=10, max_new_tokens=4)
    assert moved.rest() == moved.route
    moved.delivered += [1, 2, 3]
    assert (moved.rest().context_tokens, moved.rest().max_new_tokens) == (13, 1)
    assert moved.route.context_tokens == 10, "the next move counts from the prompt again"


def test_an_id_is_open_once():
    with pytest.raises(AssertionError):
        opened("r", "r")


def test_a_fingerprint_is_of_what_an_engine_would_do():
    same = fingerprint([1, 2], b"p", None)
    assert same == fingerprint([1, 2], b"p", None)
    others = [fingerprint([12], b"p", None), fingerprint([1, 2], b"q", None), fingerprint([1, 2], b"p", "None")]
    assert len({same, *others}) == 4
