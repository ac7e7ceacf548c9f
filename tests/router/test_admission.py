"""The admission queue lets in what fits, serves by priority then arrival, and lets nobody wait for ever."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.proto.config import AdmissionConfig
from shoal.proto.errors import DeadlinePassed, InvalidArgument, NotFound, Overloaded, Unavailable
from shoal.router.admission import AdmissionQueue
from shoal.router.contract import RouteRequest


def queue_of(*requests: RouteRequest, **limits: float) -> AdmissionQueue:
    settings = {"max_requests": 3, "max_queued_tokens": 100, "default_deadline_s": 60, "no_instance_wait_s": 5} | limits
    queue = AdmissionQueue(AdmissionConfig(**settings))
    for request in requests:
        queue.offer(request, request.arrived_s)
    return queue


def request(name: str, tokens: int = 10, **facts: float) -> RouteRequest:
    return RouteRequest(name, tokens, 5, **facts)


def ids(queue: AdmissionQueue) -> list[str]:
    queue.check()
    return [r.request_id for r in queue.queued()]


def test_priority_first_then_arrival():
    queue = queue_of(
        request("late", arrived_s=2), request("early", arrived_s=1), request("urgent", arrived_s=3, priority=-1)
    )
    assert ids(queue) == ["urgent", "early", "late"]
    assert queue.next().request_id == "urgent"


def test_equal_arrival_keeps_the_order_of_offers():
    assert ids(queue_of(request("b"), request("a"), request("c"))) == ["b", "a", "c"]


def test_a_named_deadline_makes_a_request_due_earlier():
    assert ids(queue_of(request("a"), request("soon", arrived_s=1, deadline_s=20))) == ["soon", "a"]


def test_calls_of_a_program_that_began_go_before_younger_programs():
    queue = queue_of(request("young", arrived_s=5), request("old", arrived_s=9, program="p", began_s=2))
    assert ids(queue) == ["old", "young"]


def test_tenants_that_wait_are_served_in_turn():
    queue = queue_of(*[request(name, tenant=name[0]) for name in ("a1", "a2", "b1")])
    assert ids(queue) == ["a1", "b1", "a2"]
    queue.take("a1")
    assert ids(queue) == ["b1", "a2"]


def test_a_request_that_comes_back_is_due_as_when_it_came():
    queue = queue_of(request("first"), request("second", arrived_s=1))
    queue.take("first")
    queue.started("first", 2.0)
    queue.readmit(request("first"), 3.0)
    assert ids(queue) == ["first", "second"]


def test_empty_queue_has_no_next():
    assert queue_of().next() is None


def test_full_in_requests_is_overloaded():
    queue = queue_of(request("a"), request("b"), request("c"))
    with pytest.raises(Overloaded, match=r"3 requests \(limit 3\)"):
        queue.offer(request("d"), 0.0)
    assert ids(queue) == ["a", "b", "c"]


def test_full_in_tokens_is_overloaded():
    queue = queue_of(request("a", 60))
    with pytest.raises(Overloaded, match=r"60 tokens \(limit 100\), given 1 request of 41 tokens"):
        queue.offer(request("b", 41), 0.0)
    queue.offer(request("c", 40), 0.0)
    assert queue.tokens == 100


def test_prompt_that_can_never_fit_is_the_clients_fault():
    with pytest.raises(InvalidArgument, match="context_tokens: must be at most 100, given 101"):
        queue_of().offer(request("a", 101), 0.0)


def test_id_in_use_is_refused():
    with pytest.raises(InvalidArgument, match="request_id"):
        queue_of(request("a")).offer(request("a"), 0.0)


def test_placed_request_keeps_its_room_until_its_first_token():
    queue = queue_of(request("a"), request("b"), request("c"))
    assert queue.take("a").request_id == "a"
    assert (ids(queue), len(queue), queue.queued_requests) == (["b", "c"], 3, 2)
    with pytest.raises(Overloaded):
        queue.offer(request("d"), 0.0)
    queue.started("a", 1.0)
    queue.offer(request("d"), 1.0)
    assert (len(queue), queue.tokens) == (3, 30)


def test_taking_twice_or_a_stranger_is_an_error():
    queue = queue_of(request("a"))
    queue.take("a")
    for name in ("a", "x"):
        with pytest.raises(NotFound, match=name):
            queue.take(name)


def test_client_that_leaves_frees_its_room_wherever_it_was():
    queue = queue_of(request("a"), request("b"))
    queue.take("a")
    assert [queue.withdraw(name, 0.0) for name in ("a", "b", "x")] == [True, True, False]
    assert (ids(queue), len(queue), queue.tokens) == ([], 0, 0)


def test_retry_after_is_unknown_without_departures():
    with pytest.raises(Overloaded) as caught:
        queue_of(request("a", 100)).offer(request("b", 50), 0.0)
    assert caught.value.retry_after_s == 5.0


def test_retry_after_follows_the_recent_drain_rate():
    queue = queue_of(max_requests=10)
    for n in range(4):  # 4 requests of 5 tokens leave in the 4 s before t = 4: 5 tokens per second
        queue.offer(request(f"gone{n}", 5), float(n))
        queue.started(f"gone{n}", float(n))
    queue.offer(request("a", 90), 4.0)
    with pytest.raises(Overloaded) as caught:
        queue.offer(request("b", 40), 4.0)  # 30 tokens too many
    assert caught.value.retry_after_s == pytest.approx(6.0)


def test_retry_after_is_bounded_both_ways_and_forgets_old_rates():
    def retry(tokens: int, now_s: float) -> float:
        queue = queue_of(max_queued_tokens=1000, max_requests=100)
        queue.offer(request("gone", 2), 0.0)
        queue.started("gone", 0.0)
        queue.offer(request("a", 1000), 0.0)
        with pytest.raises(Overloaded) as caught:
            queue.offer(request("b", tokens), now_s)
        return caught.value.retry_after_s

    assert (retry(1, 0.0), retry(1000, 0.0), retry(1000, 11.0)) == (1.0, 60.0, 5.0)


def test_deadline_ends_the_wait_for_a_place_and_for_the_first_token():
    queue = queue_of(request("queued", deadline_s=5), request("placed", deadline_s=5), request("patient", deadline_s=9))
    queue.take("placed")
    assert queue.next_expiry_s() == 5
    assert queue.expire(4.9) == {}
    over = queue.expire(5.0)
    assert list(over) == ["queued", "placed"]
    assert all(isinstance(error, DeadlinePassed) for error in over.values())
    assert (ids(queue), queue.next_expiry_s()) == (["patient"], 9)


def test_request_without_a_deadline_gets_the_default_from_its_arrival():
    queue = queue_of(request("a", arrived_s=10))
    assert queue.next_expiry_s() == 70
    assert queue_of(request("b", deadline_s=500)).next_expiry_s() == 500


def test_empty_cluster_is_waited_for_only_so_long():
    queue = queue_of(request("early"))
    queue.set_no_instance(True, 10.0)
    queue.set_no_instance(True, 11.0)  # still empty: the wait does not start anew
    queue.offer(request("late", arrived_s=12), 12.0)
    assert queue.next_expiry_s() == 15
    over = queue.expire(15.0)
    assert list(over) == ["early"]
    assert type(over["early"]) is Unavailable and over["early"].retry_after_s > 0
    assert list(queue.expire(17.0)) == ["late"]


def test_instance_that_comes_back_in_time_ends_the_count():
    queue = queue_of(request("a"))
    queue.set_no_instance(True, 0.0)
    queue.set_no_instance(False, 4.0)
    queue.set_no_instance(True, 6.0)
    assert queue.expire(10.9) == {}
    assert list(queue.expire(11.0)) == ["a"]


def test_readmitted_before_its_first_token_keeps_deadline_and_place_in_line():
    queue = queue_of(request("first", arrived_s=1, deadline_s=7), request("second", arrived_s=2))
    queue.take("first")
    queue.readmit(request("first", tokens=12, arrived_s=1), 3.0)
    assert (ids(queue), queue.tokens, queue.next_expiry_s()) == (["first", "second"], 22, 7)


def test_readmitted_stream_is_let_in_though_the_queue_is_full_and_waits_a_bounded_time():
    queue = queue_of(request("a"), request("b"), request("c"))
    queue.readmit(request("streaming", tokens=500, deadline_s=1), 100.0)
    assert len(queue) == 4
    assert "streaming" not in queue.expire(159.9)
    assert "streaming" in queue.expire(160.0)


ACTS = st.sampled_from(["offer", "readmit", "take", "started", "withdraw", "expire", "empty", "back"])


@given(st.lists(st.tuples(ACTS, st.integers(0, 5).map(str), st.integers(0, 60), st.floats(0, 3)), max_size=50))
def test_any_history_keeps_the_sums_and_everybody_leaves_in_the_end(history):
    queue, now_s = queue_of(), 0.0
    for act, name, tokens, passed_s in history:
        now_s += passed_s
        try:
            match act:
                case "offer" | "readmit":
                    getattr(queue, act)(request(name, tokens, arrived_s=now_s), now_s)
                case "take":
                    queue.take(name)
                case "started" | "withdraw":
                    getattr(queue, act)(name, now_s)
                case "expire":
                    queue.expire(now_s)
                case _:
                    queue.set_no_instance(act == "empty", now_s)
        except (Overloaded, InvalidArgument, NotFound):
            pass
        queue.check()
    queue.expire(now_s + 61)
    assert (len(queue), queue.tokens, queue.next()) == (0, 0, None)


def placed_queue_of(count):
    queue = queue_of(*(request(f"r{n}", 1) for n in range(count)), max_requests=100)
    for n in range(count):
        queue.take(f"r{n}")
    return queue


def test_who_would_wait_past_its_deadline_is_refused_at_once_with_the_time_to_come_again():
    queue = placed_queue_of(20)
    for n in range(10):
        queue.started(f"r{n}", (n + 1) / 2)  # two are served per second
    with pytest.raises(Overloaded, match=r"about 5\.5 s, 2\.5 s past its deadline") as refused:
        queue.offer(request("hopeless", arrived_s=5.0, deadline_s=8.0), 5.0)
    assert refused.value.retry_after_s == 2.5
    queue.offer(request("patient", arrived_s=5.0, deadline_s=10.5), 5.0)
    queue.offer(request("urgent", arrived_s=5.0, deadline_s=6.0, priority=-1), 5.0)  # nobody is ahead of it
    assert ids(queue)[0] == "urgent" and "hopeless" not in ids(queue)


def test_who_left_unserved_is_no_sign_of_a_fast_fleet():
    queue = placed_queue_of(24)
    for n in range(14):
        queue.withdraw(f"r{n}", 1.0)
    for n in range(14, 19):
        queue.started(f"r{n}", n - 13.0)  # one per second, whoever left before
    with pytest.raises(Overloaded, match=r"about 6\.0 s"):
        queue.offer(request("hopeless", arrived_s=5.0, deadline_s=8.0), 5.0)
