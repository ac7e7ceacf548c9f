from random import Random

import pytest

from shoal.cluster.client.errors import CallFailed
from shoal.cluster.client.flight import Failure, Flight, Retries, RetryPolicy
from shoal.proto.v1 import inference_pb2 as pb

GONE = Failure("UNAVAILABLE", "connection refused")
FULL = Failure("RESOURCE_EXHAUSTED", "the queue is full", retry_after_s=2.0)
UNKNOWN = Failure("NOT_FOUND", "no such request")
POLICY = RetryPolicy(attempts=4, first_backoff_s=0.1, max_backoff_s=1.0, resume_window_s=30.0, unknown_window_s=5.0)


def reply(index, tokens, finish="", choice=0):
    return pb.GenerateReply(index=index, token_ids=tokens, finish_reason=finish, choice=choice)


def flight(n=0, addresses=("a", "b"), deadline_s=None):
    request = pb.GenerateRequest(request_id="r", text="x", sampling=pb.SamplingParams(n=n))
    return Flight(request, Retries(addresses, POLICY, Random(0), deadline_s))


def next_call(machine, now_s=0.0):
    attempt = machine.next_attempt(now_s)
    index = attempt.message.next_index if attempt.method == "Resume" else None
    return attempt.method, attempt.message.request_id, index


def test_an_undisturbed_request_is_one_call():
    machine = flight()
    assert next_call(machine) == ("Generate", "r", None)
    machine.took(reply(0, [1]))
    machine.took(reply(1, [2, 3], "length"))
    assert machine.ended(1.0) is None


def test_before_the_first_token_it_is_generated_again_under_a_new_name():
    machine = flight()
    names = []
    for _ in range(POLICY.attempts - 1):
        names.append(next_call(machine)[:2])
        assert machine.failed(GONE, 0.0) is not None
    assert names == [("Generate", "r"), ("Generate", "r.1"), ("Generate", "r.2")]
    next_call(machine)
    with pytest.raises(CallFailed) as caught:
        machine.failed(GONE, 0.0)
    assert (caught.value.code, caught.value.request_id, caught.value.delivered) == ("UNAVAILABLE", "r.3", 0)


def test_each_attempt_turns_to_another_address():
    machine = flight(addresses=("a", "b", "c"))
    seen = []
    for _ in range(3):
        seen.append(machine.next_attempt(0.0).address)
        machine.failed(GONE, 0.0)
    assert sorted(seen) == ["a", "b", "c"]


def test_backing_off_grows_with_jitter_up_to_its_bound():
    retries = Retries(["a"], POLICY, Random(1), None)
    waits = [retries.wait_s(GONE, 0.0) for _ in range(8)]
    for n, wait_s in enumerate(waits):
        longest_s = min(1.0, 0.1 * 2**n)
        assert longest_s / 2 <= wait_s <= longest_s
    assert len(set(waits)) == 8


def test_the_server_says_when_to_come_back():
    machine = flight()
    next_call(machine)
    assert 2.0 <= machine.failed(FULL, 0.0) <= 2.4


@pytest.mark.parametrize(
    "code", ["INVALID_ARGUMENT", "UNAUTHENTICATED", "NOT_FOUND", "DEADLINE_EXCEEDED", "INTERNAL", "RESOURCE_EXHAUSTED"]
)
def test_what_would_fail_again_is_not_tried_again(code):
    machine = flight()
    next_call(machine)
    with pytest.raises(CallFailed) as caught:
        machine.failed(Failure(code, "why"), 0.0)
    assert (caught.value.code, caught.value.message) == (code, "why")


def test_nothing_is_tried_past_the_deadline():
    machine = flight(deadline_s=10.0)
    assert machine.next_attempt(4.0).timeout_s == 6.0
    with pytest.raises(CallFailed):
        machine.failed(FULL, 9.0)


def test_after_the_first_token_it_is_resumed_at_the_next_one_and_at_another_address():
    machine = flight()
    first = machine.next_attempt(0.0)
    machine.took(reply(0, [1, 2]))
    assert machine.failed(GONE, 1.0) is not None
    second = machine.next_attempt(1.0)
    assert (second.method, second.message) == ("Resume", pb.ResumeRequest(request_id="r", next_index=2))
    assert second.address != first.address
    machine.took(reply(2, [3], "stop"))
    assert machine.ended(2.0) is None


def test_a_request_not_yet_missed_by_its_instance_is_asked_for_again_for_a_while():
    machine = flight()
    next_call(machine)
    machine.took(reply(0, [1]))
    machine.failed(GONE, 10.0)
    assert machine.failed(UNKNOWN, 10.1) is not None
    assert machine.failed(UNKNOWN, 14.9) is not None
    with pytest.raises(CallFailed) as caught:
        machine.failed(UNKNOWN, 15.1)
    assert (caught.value.code, caught.value.delivered) == ("NOT_FOUND", 1)


def test_resuming_ends_with_the_time_that_requests_are_kept():
    machine = flight()
    next_call(machine)
    machine.took(reply(0, [1]))
    assert machine.failed(GONE, 10.0) is not None
    assert machine.failed(GONE, 39.0) is not None
    with pytest.raises(CallFailed):
        machine.failed(GONE, 40.1)


def test_progress_opens_the_window_anew():
    machine = flight()
    next_call(machine)
    machine.took(reply(0, [1]))
    machine.failed(GONE, 10.0)
    machine.took(reply(1, [2]))
    assert machine.failed(GONE, 60.0) is not None


def test_several_choices_cannot_be_resumed():
    machine = flight(n=2)
    next_call(machine)
    machine.took(reply(0, [1], choice=1))
    with pytest.raises(CallFailed):
        machine.failed(GONE, 0.0)


def test_several_choices_end_together_and_count_apart():
    machine = flight(n=2)
    next_call(machine)
    machine.took(reply(0, [1], "stop", choice=1))
    machine.took(reply(0, [1, 2], choice=0))
    machine.took(reply(2, [3], "length", choice=0))
    assert machine.ended(0.0) is None


@pytest.mark.parametrize("index", [0, 1, 3])
def test_a_lost_or_doubled_token_is_never_passed_on(index):
    machine = flight()
    next_call(machine)
    machine.took(reply(0, [1, 2]))
    with pytest.raises(CallFailed, match=f"DATA_LOSS: choice 0: token 2 is due, {index} came"):
        machine.took(reply(index, [3]))


def test_a_stream_that_ends_too_early_is_resumed():
    machine = flight()
    next_call(machine)
    machine.took(reply(0, [1]))
    assert machine.ended(0.0) is not None
    assert next_call(machine) == ("Resume", "r", 1)


def test_a_failure_after_the_end_is_none():
    machine = flight()
    next_call(machine)
    machine.took(reply(0, [1], "stop"))
    assert machine.failed(GONE, 0.0) is None


def test_a_simple_call_is_repeated_as_often_as_allowed():
    retries = Retries(["a"], POLICY, Random(1), None)
    for _ in range(POLICY.attempts - 1):
        assert retries.repeat_in_s(GONE, 0.0) > 0
    with pytest.raises(CallFailed):
        retries.repeat_in_s(GONE, 0.0)
    with pytest.raises(CallFailed):
        Retries(["a"], POLICY, Random(1), None).repeat_in_s(UNKNOWN, 0.0)


def test_there_is_an_address():
    with pytest.raises(ValueError, match="addresses"):
        Retries([], POLICY, Random(1), None)
