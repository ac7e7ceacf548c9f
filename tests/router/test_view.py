"""The view counts each request exactly once: as a booking until its instance reports it, in the report from then on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.proto.errors import BadMessage, NotFound
from shoal.router.contract import InstanceInfo, InstanceLoad, Placement, Role, RouteRequest
from shoal.router.snapshot import Standing
from shoal.router.view import ClusterView

SETTLE_S = 0.1


def info(name: str, role: Role = Role.MIXED) -> InstanceInfo:
    return InstanceInfo(name, role, 4, 100, 1000, 256, 8)


def view_of(*names: str) -> ClusterView:
    view = ClusterView(settle_s=SETTLE_S)
    for name in names:
        view.join(info(name))
    return view


def request(name: str = "r", tokens: int = 10, hashes: tuple[bytes, ...] = ()) -> RouteRequest:
    return RouteRequest(name, tokens, 5, hashes)


def seen(view: ClusterView, row: int = 0, now_s: float = 0.0) -> tuple[int, int]:
    """(requests, prefill tokens) of one instance: through candidates and through the columns, which must agree."""
    view.check()
    load, snapshot = view.candidates(now_s)[row].load, view.snapshot()
    requests, tokens = load.running + load.waiting, load.queued_prefill_tokens + load.uncached_prefill_tokens
    assert (snapshot.requests[row], snapshot.prefill_tokens[row]) == (requests, tokens)
    return requests, tokens


def test_booking_counts_at_once_less_what_is_cached():
    view = view_of("a", "b")
    view.book(request(tokens=10), Placement("a", cached_tokens=4), now_s=0.0)
    assert (seen(view, 0), seen(view, 1)) == ((1, 6), (0, 0))


def test_report_sent_before_the_booking_arrived_does_not_end_it():
    view = view_of("a")
    view.book(request(), Placement("a"), now_s=1.0)
    view.observe("a", InstanceLoad(running=2, queued_prefill_tokens=7), now_s=1.05)
    assert seen(view) == (3, 17)


def test_first_report_after_settling_takes_over_without_counting_twice():
    view = view_of("a")
    view.book(request(), Placement("a"), now_s=1.0)
    view.observe("a", InstanceLoad(waiting=1, queued_prefill_tokens=10), now_s=1.0 + SETTLE_S)
    assert seen(view) == (1, 10)


def test_time_alone_never_ends_a_booking_where_instances_acknowledge():
    view = ClusterView()
    view.join(info("a"))
    view.book(request(), Placement("a"), now_s=1.0)
    view.observe("a", InstanceLoad(running=1), now_s=100.0)  # one long step: its load is from before the request came
    assert seen(view) == (2, 10)
    view.acknowledged("r")
    view.observe("a", InstanceLoad(running=2), now_s=100.1)
    assert seen(view) == (2, 0)


def test_slow_steps_settle_later():
    view = view_of("a")
    view.book(request(), Placement("a"), now_s=1.0)
    view.observe("a", InstanceLoad(step_ms=500), now_s=1.5)
    assert seen(view) == (1, 10)
    view.observe("a", InstanceLoad(step_ms=500, running=1), now_s=2.2)
    assert seen(view) == (1, 0)


def test_acknowledged_booking_hands_over_at_the_next_report_however_soon():
    view = view_of("a")
    view.book(request("r1"), Placement("a"), now_s=1.0)
    view.book(request("r2"), Placement("a"), now_s=1.0)
    view.acknowledged("r1")
    assert seen(view) == (2, 20)
    view.observe("a", InstanceLoad(waiting=1, queued_prefill_tokens=10), now_s=1.001)
    assert seen(view) == (2, 20)  # one reported, one still booked


def test_first_token_ends_the_prefill_and_the_next_report_the_rest():
    view = view_of("a")
    view.book(request(), Placement("a"), now_s=1.0)
    view.first_token("r")
    assert seen(view) == (1, 0)
    view.observe("a", InstanceLoad(running=1), now_s=1.001)
    assert seen(view) == (1, 0)


def test_finish_before_any_report_gives_everything_back():
    view = view_of("a")
    view.book(request(), Placement("a"), now_s=1.0)
    view.finish("r")
    view.finish("r")
    assert seen(view) == (0, 0)


def test_resubmission_moves_the_booking():
    view = view_of("a", "b")
    view.book(request(), Placement("a"), now_s=1.0)
    view.book(request(tokens=12), Placement("b"), now_s=1.1)
    assert (seen(view, 0), seen(view, 1)) == ((0, 0), (1, 12))


def test_instance_that_leaves_takes_its_bookings_and_keeps_the_others_in_order():
    view = view_of("a", "b", "c")
    for name, instance in (("r1", "a"), ("r2", "b"), ("r3", "c")):
        view.book(request(name), Placement(instance), now_s=1.0)
    view.leave("b")
    view.finish("r2")
    assert [c.info.id for c in view.candidates(1.0)] == ["a", "c"]
    assert (seen(view, 0), seen(view, 1)) == ((1, 10), (1, 10))


def test_joining_again_starts_from_nothing():
    view = view_of("a")
    view.book(request(), Placement("a"), now_s=1.0)
    view.observe("a", InstanceLoad(running=5), now_s=1.0)
    view.block_changes("a", "stored", [b"1"])
    view.join(info("a"))
    assert seen(view) == (0, 0)
    assert view.question(request(hashes=(b"1",)), 1.0).cached_tokens.tolist() == [0]


def test_facts_about_strangers_are_ignored():
    view = view_of("a")
    view.observe("b", InstanceLoad(running=1), 1.0)
    view.set_state("b", Standing.FENCED)
    view.leave("b")
    view.block_changes("b", "stored", [b"1"])
    view.acknowledged("r")
    view.first_token("r")
    assert seen(view) == (0, 0)


def test_booking_on_a_stranger_is_refused():
    with pytest.raises(NotFound, match="b"):
        view_of("a").book(request(), Placement("b"), 0.0)


def test_unknown_kind_of_block_change_is_a_bad_message():
    with pytest.raises(BadMessage, match="renamed"):
        view_of("a").block_changes("a", "renamed", [])


def test_only_ready_instances_that_do_not_drain_are_placeable():
    view = view_of("a", "b", "c", "d")
    view.set_state("b", Standing.DRAINING)
    view.set_state("c", Standing.FENCED)
    view.observe("d", InstanceLoad(draining=True), 1.0)
    assert view.snapshot().placeable.tolist() == [True, False, False, False]
    assert view.placeable == 1
    view.set_state("c", Standing.READY)
    view.observe("d", InstanceLoad(), 1.0)
    assert view.snapshot().placeable.tolist() == [True, False, True, True]


def test_age_is_that_of_the_latest_report():
    view = view_of("a", "b")
    view.observe("a", InstanceLoad(), now_s=2.0)
    assert [c.age_s for c in view.candidates(now_s=2.5)] == [0.5, 0.0]


def test_snapshot_is_a_window_on_the_view_that_nobody_can_write_through():
    view = view_of("a")
    window = view.snapshot()
    view.book(request(), Placement("a"), now_s=0.0)
    assert window.requests.tolist() == [1]
    for column in (window.requests, window.table, window.placeable):
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 5


@pytest.mark.parametrize(("tokens", "cached"), [(8, 4), (9, 8), (11, 8), (4, 0), (1, 0), (0, 0)])
def test_cached_tokens_are_whole_blocks_without_the_last_token(tokens, cached):
    view = view_of("a", "b")
    view.block_changes("a", "stored", [b"1", b"2"])
    question = view.question(request(tokens=tokens, hashes=(b"1", b"2")), 0.0)
    assert question.cached_tokens.tolist() == [cached, 0]


def test_booking_keeps_the_blocks_it_will_use_from_being_forgotten():
    view = ClusterView(max_blocks_per_instance=2)
    view.join(info("a"))
    view.block_changes("a", "stored", [b"1"])
    view.block_changes("a", "stored", [b"2"])
    view.book(request(tokens=5, hashes=(b"1",)), Placement("a", cached_tokens=4), 0.0)
    view.block_changes("a", "stored", [b"3"])
    assert view.question(request("q", tokens=5, hashes=(b"1",)), 0.0).cached_tokens.tolist() == [4]


NAMES = st.sampled_from(["a", "b", "c"])
REQUESTS = st.integers(0, 5).map(str)
EVENTS = st.one_of(
    st.tuples(st.just("book"), NAMES, REQUESTS, st.integers(0, 50), st.integers(0, 60)),
    st.tuples(st.sampled_from(["acknowledged", "first_token", "finish"]), REQUESTS),
    st.tuples(st.just("observe"), NAMES, st.integers(0, 9), st.integers(0, 99)),
    st.tuples(st.sampled_from(["join", "leave"]), NAMES),
    st.tuples(st.just("set_state"), NAMES, st.sampled_from(Standing)),
)


def feed(view: ClusterView, event: tuple, now_s: float) -> None:
    match event:
        case ("book", instance, name, tokens, cached):
            if instance in {c.info.id for c in view.candidates(now_s)}:
                view.book(request(name, tokens), Placement(instance, cached), now_s)
        case ("observe", instance, running, tokens):
            view.observe(instance, InstanceLoad(running=running, uncached_prefill_tokens=tokens), now_s)
        case ("join", instance):
            view.join(info(instance))
        case (method, *arguments):
            getattr(view, method)(*arguments)


@given(st.lists(st.tuples(EVENTS, st.floats(0, 0.2)), max_size=60))
def test_after_any_history_load_is_never_negative_and_returns_to_zero_when_all_is_over(history):
    view, now_s = view_of("a", "b"), 0.0
    for event, passed_s in history:
        now_s += passed_s
        feed(view, event, now_s)
        view.check()
    for name in map(str, range(6)):
        view.finish(name)
    for candidate in view.candidates(now_s):
        view.observe(candidate.info.id, InstanceLoad(), now_s)
    view.check()
    snapshot = view.snapshot()
    assert not snapshot.requests.any() and not snapshot.prefill_tokens.any()
