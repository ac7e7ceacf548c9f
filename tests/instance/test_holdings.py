"""What an instance holds ends with its stream, or waits 30 s for one adopter who hears all of it under a new fence."""

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from shoal.instance.holdings import KEEP_S, MAX_FINISHED, Address, Held, Holdings

SAID_S = 100.0


def held(
    request_id: str = "r",
    *,
    epoch: int = 1,
    watcher: int = 1,
    frontend: str = "f1",
    tenant: str = "t",
    key: str = "",
    delivered: tuple[int, ...] = (),
) -> Held:
    return Held(
        request_id,
        epoch,
        f"{request_id}@{epoch}",
        watcher,
        tenant,
        b"request",
        delivered,
        key,
        b"context",
        frontend,
    )


def holding(*requests: Held) -> Holdings:
    holdings = Holdings()
    for one in requests:
        assert holdings.add(one)
    holdings.check()
    return holdings


def say(holdings: Holdings, engine_id: str, tokens: int = 1, *, finished: bool = False) -> Address | None:
    address = holdings.said(engine_id, f"{engine_id}+{tokens}", range(tokens), finished=finished, now_s=SAID_S)
    holdings.check()
    return address


def claim(holdings: Holdings, *, watcher: int = 2, request_id: str = "new", epoch: int = 2) -> Held | None:
    taken = holdings.claim("key", "t", watcher=watcher, frontend=f"f{watcher}", request_id=request_id, epoch=epoch)
    holdings.check()
    return taken


# -- output


def test_output_is_addressed_with_owner_epoch_and_next_index() -> None:
    holdings = holding(held(delivered=(7, 8, 9), epoch=4))
    assert say(holdings, "r@4") == Address(1, "r", 4, 3)
    assert say(holdings, "r@4", 2) == Address(1, "r", 4, 4)
    assert say(holdings, "r@4", 1) == Address(1, "r", 4, 6)


def test_output_of_an_unknown_or_dropped_request_goes_nowhere() -> None:
    holdings = holding(held())
    assert say(holdings, "other@1") is None
    assert holdings.drop_request(1, "r") == "r@1"
    assert say(holdings, "r@1") is None
    assert holdings.drop_request(1, "r") is None


def test_a_finished_request_is_forgotten_at_once_unless_it_may_be_resumed() -> None:
    holdings = holding(held("plain"), held("kept", key="key"))
    say(holdings, "plain@1", finished=True)
    say(holdings, "kept@1", finished=True)
    assert list(holdings.by_engine_id) == ["kept@1"]
    assert holdings.expire(SAID_S + KEEP_S - 0.1) == []
    assert list(holdings.by_engine_id) == ["kept@1"]
    assert holdings.expire(SAID_S + KEEP_S) == []  # it runs no more: nothing to abort
    assert not holdings.by_engine_id


def test_the_newest_of_too_many_finished_ones_are_kept() -> None:
    holdings = holding(*(held(f"r{n}", key=f"key{n}") for n in range(MAX_FINISHED + 3)))
    for n in range(MAX_FINISHED + 3):
        say_finished = holdings.said(f"r{n}@1", "out", [1], finished=True, now_s=SAID_S)
        assert say_finished is not None
    assert holdings.expire(SAID_S) == []
    holdings.check()
    assert len(holdings.by_engine_id) == MAX_FINISHED
    assert "r2@1" not in holdings.by_engine_id
    assert "r3@1" in holdings.by_engine_id


# -- the same again


def test_a_repeated_submission_is_not_a_second_request() -> None:
    holdings = holding(held())
    assert not holdings.add(held())
    assert not holdings.add(held(watcher=2))
    holdings.check()
    assert say(holdings, "r@1") == Address(1, "r", 1, 0)


def test_a_later_epoch_of_a_request_drops_the_earlier_one_of_the_same_watcher_only() -> None:
    holdings = holding(held("r"), held("other"))
    assert holdings.drop_earlier(1, "r", 1) is None
    assert holdings.drop_earlier(2, "r", 2) is None
    assert holdings.drop_earlier(1, "r", 2) == "r@1"
    assert holdings.add(held("r", epoch=2))
    holdings.check()
    assert say(holdings, "r@1") is None
    assert holdings.drop_request(1, "r") == "r@2"


def test_an_earlier_epoch_after_a_later_one_is_a_repeat() -> None:
    holdings = holding(held("r", epoch=3))
    assert holdings.drop_earlier(1, "r", 2) is None
    assert not holdings.add(held("r", epoch=2))
    holdings.check()


# -- the stream ends


def test_the_end_of_a_stream_aborts_what_nobody_may_adopt_and_keeps_the_rest_for_thirty_seconds() -> None:
    holdings = holding(held("plain"), held("kept", key="key"), held("elsewhere", watcher=2))
    assert holdings.end_watcher(1, 50.0) == ["plain@1"]
    holdings.check()
    assert say(holdings, "kept@1") == Address(None, "kept", 1, 0)
    assert holdings.expire(79.9) == []
    assert holdings.expire(80.0) == ["kept@1"]
    holdings.check()
    assert list(holdings.by_engine_id) == ["elsewhere@1"]


def test_a_frontend_that_comes_back_ends_what_its_former_stream_left_running() -> None:
    holdings = holding(held("mine", key="a"), held("done", key="b"), held("theirs", key="c", watcher=2, frontend="f2"))
    say(holdings, "done@1", finished=True)
    holdings.end_watcher(1, 0.0)
    holdings.end_watcher(2, 0.0)
    assert holdings.returned("f1") == ["mine@1"]
    holdings.check()
    assert sorted(holdings.by_engine_id) == ["done@1", "theirs@1"]
    assert holdings.returned("f1") == []


# -- adoption


def test_an_orphan_is_found_by_key_and_tenant_and_by_nothing_else() -> None:
    holdings = holding(held("r", key="key"))
    assert holdings.orphan("key", "t") is None  # its frontend lives
    holdings.end_watcher(1, 0.0)
    found = holdings.orphan("key", "t")
    assert found is not None
    assert (found.epoch, found.request, found.resume_context) == (1, b"request", b"context")
    assert holdings.orphan("key", "somebody else") is None
    assert holdings.orphan("other key", "t") is None
    assert holdings.orphan("", "t") is None


def test_what_is_not_resumable_is_nobodys_orphan() -> None:
    holdings = holding(held("r"))
    holdings.end_watcher(1, 0.0)
    assert holdings.orphan("", "t") is None


def test_a_claim_takes_over_name_epoch_and_all_that_was_said() -> None:
    holdings = holding(held("r", key="key", delivered=(1, 2)))
    say(holdings, "r@1", 1)
    holdings.end_watcher(1, 0.0)
    say(holdings, "r@1", 3)
    taken = claim(holdings)
    assert taken is not None
    assert (taken.delivered, taken.kept) == ((1, 2), ["r@1+1", "r@1+3"])
    assert say(holdings, "r@1") == Address(2, "new", 2, 6)
    assert holdings.expire(10_000.0) == []
    assert holdings.drop_request(2, "new") == "r@1"


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_claim_needs_the_next_epoch(epoch: int) -> None:
    holdings = holding(held("r", key="key"))
    holdings.end_watcher(1, 0.0)
    assert claim(holdings, epoch=epoch) is None
    assert claim(holdings) is not None


def test_the_second_claim_is_too_late() -> None:
    holdings = holding(held("r", key="key"))
    holdings.end_watcher(1, 0.0)
    assert claim(holdings) is not None
    assert claim(holdings, watcher=3) is None
    assert claim(holdings, watcher=3, epoch=3) is None


def test_a_claim_cannot_hide_a_request_that_the_claimer_has_already() -> None:
    holdings = holding(held("r", key="key"), held("mine", watcher=2))
    holdings.end_watcher(1, 0.0)
    assert claim(holdings, request_id="mine") is None
    assert holdings.drop_request(2, "mine") == "mine@1"


def test_a_finished_orphan_can_be_claimed_and_still_expires() -> None:
    holdings = holding(held("r", key="key"))
    say(holdings, "r@1", finished=True)
    holdings.end_watcher(1, SAID_S)
    assert claim(holdings) is not None
    assert holdings.expire(SAID_S + KEEP_S) == []
    holdings.check()
    assert not holdings.by_engine_id


def test_an_adopted_request_is_an_orphan_again_when_its_adopter_dies() -> None:
    holdings = holding(held("r", key="key"))
    holdings.end_watcher(1, 0.0)
    claim(holdings)
    assert holdings.end_watcher(2, 5.0) == []
    assert claim(holdings, watcher=3, epoch=3) is not None


def test_of_several_lives_of_one_request_only_the_latest_can_be_adopted() -> None:
    holdings = holding(held("r", key="key"))
    holdings.end_watcher(1, 0.0)
    assert holdings.add(held("r", key="key", epoch=2, watcher=2))
    holdings.check()
    assert holdings.orphan("key", "t") is None  # the latest life has an owner: the earlier one is history
    holdings.end_watcher(2, 1.0)
    taken = claim(holdings, watcher=3, epoch=3)
    assert taken is not None
    assert taken.engine_id == "r@2"
    assert claim(holdings, watcher=4, epoch=2) is None


# -- any sequence


@dataclass
class Life:
    """What one request should be, told more simply than Holdings does."""

    key: str
    frontend: str
    owner: int | None
    said: int = 0
    finished: bool = False
    ends_s: float | None = None
    fences: list[tuple[int | None, str, int]] = field(default_factory=list)


class AnySequence(RuleBasedStateMachine):
    """Streams come and go, requests start, speak, finish, are aborted, adopted, forgotten; time passes."""

    lives = Bundle("lives")
    keys = st.sampled_from(["", "k1", "k2"])

    def __init__(self) -> None:
        super().__init__()
        self.holdings = Holdings()
        self.now_s = 0.0
        self.watchers = {1: "f1", 2: "f2"}
        self.last_watcher = 2
        self.model: dict[str, Life] = {}
        self.gone: set[str] = set()

    def forget(self, engine_ids: list[str]) -> None:
        for engine_id in engine_ids:
            del self.model[engine_id]
            self.gone.add(engine_id)

    @rule(target=lives, data=st.data(), key=keys, epoch=st.integers(1, 4), name=st.sampled_from(["a", "b", "c"]))
    def submit(self, data: st.DataObject, key: str, epoch: int, name: str) -> object:
        watcher = data.draw(st.sampled_from(sorted(self.watchers)))
        one = held(name, epoch=epoch, watcher=watcher, frontend=self.watchers[watcher], key=key)
        if one.engine_id in self.gone:
            return multiple()  # no frontend uses an epoch twice
        earlier = self.holdings.drop_earlier(watcher, name, epoch)
        if earlier is not None:
            self.forget([earlier])
        if not self.holdings.add(one):
            return multiple()
        assert one.engine_id not in self.model
        self.model[one.engine_id] = Life(key, self.watchers[watcher], watcher)
        return one.engine_id

    @rule(engine_id=lives, tokens=st.integers(0, 3), finished=st.booleans())
    def say(self, engine_id: str, tokens: int, finished: bool) -> None:
        life = self.model.get(engine_id)
        if life is not None and life.finished:
            return
        address = self.holdings.said(engine_id, tokens, range(tokens), finished=finished, now_s=self.now_s)
        if life is None:
            assert address is None
            return
        assert address is not None
        assert (address.watcher, address.index) == (life.owner, life.said)
        life.said += tokens
        if finished:
            life.finished, life.ends_s = True, self.now_s + KEEP_S
            if not life.key:
                self.forget([engine_id])

    @rule(engine_id=consumes(lives))
    def abort(self, engine_id: str) -> None:
        life = self.model.get(engine_id)
        if life is None or life.owner is None:
            return
        request_id = self.holdings.by_engine_id[engine_id].request_id
        assert self.holdings.drop_request(life.owner, request_id) == engine_id
        self.forget([engine_id])

    @rule(data=st.data(), comes_back=st.booleans())
    def stream_ends(self, data: st.DataObject, comes_back: bool) -> None:
        watcher = data.draw(st.sampled_from(sorted(self.watchers)))
        frontend = self.watchers.pop(watcher)
        aborted = self.holdings.end_watcher(watcher, self.now_s)
        assert not any(self.model[engine_id].key for engine_id in aborted)
        self.forget(aborted)
        for life in self.model.values():
            if life.owner == watcher:
                assert life.key
                life.owner, life.ends_s = None, self.now_s + KEEP_S
        if comes_back:
            left = self.holdings.returned(frontend)
            assert set(left) == {
                e for e, n in self.model.items() if n.owner is None and n.frontend == frontend and not n.finished
            }
            self.forget(left)
        self.last_watcher += 1
        self.watchers[self.last_watcher] = frontend if comes_back else f"f{self.last_watcher}"

    @rule(data=st.data(), key=keys)
    def adopt(self, data: st.DataObject, key: str) -> None:
        watcher = data.draw(st.sampled_from(sorted(self.watchers)))
        found = self.holdings.orphan(key, "t")
        if found is None:
            return
        life = self.model[found.engine_id]
        assert key and life.key == key and life.owner is None
        said_before = found.next_index
        taken = self.holdings.claim(
            key, "t", watcher=watcher, frontend=self.watchers[watcher], request_id=f"n{watcher}", epoch=found.epoch + 1
        )
        if taken is None:
            assert (watcher, f"n{watcher}") in self.holdings.by_request
            return
        assert taken is found and taken.next_index == said_before == life.said
        assert sum(taken.kept) == life.said
        life.owner, life.frontend = watcher, self.watchers[watcher]
        life.ends_s = life.ends_s if life.finished else None

    @rule(seconds=st.sampled_from([0.0, 1.0, 15.0, 31.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        late = {e for e, life in self.model.items() if life.ends_s is not None and life.ends_s <= self.now_s}
        running = {e for e in late if not self.model[e].finished}
        assert set(self.holdings.expire(self.now_s)) == running
        self.forget(sorted(late))

    @invariant()
    def agrees_with_the_simple_telling(self) -> None:
        self.holdings.check()
        assert set(self.holdings.by_engine_id) == set(self.model)
        for engine_id, life in self.model.items():
            one = self.holdings.by_engine_id[engine_id]
            assert (one.watcher, one.next_index, one.finished) == (life.owner, life.said, life.finished)


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(stateful_step_count=25)
