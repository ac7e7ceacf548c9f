"""Sessions say more each turn, share what they should, and wait for what they fanned out."""

from dataclasses import replace
from itertools import pairwise

from shoal.bench.sim.agents import Agents, AgentShape
from shoal.bench.sim.request import SimRequest

SHAPE = AgentShape(applications=2, shared_tokens=40, message_tokens=30, output_tokens=20, fan_out_share=0.0)


def agents(shape: AgentShape = SHAPE, sessions: int = 6, seed: int = 0) -> Agents:
    starts_s = [float(number) for number in range(sessions)]
    return Agents(shape, starts_s, block_size=16, max_new_tokens=500, seed=seed)


def play(workload: Agents) -> list[SimRequest]:
    """Every request ends one second after it was sent."""
    sent = open_ = sorted(workload.arrivals(), key=lambda request: request.arrival_s)
    sent = list(sent)
    while open_:
        request = open_.pop(0)
        followers = workload.after(request, request.arrival_s + 1)
        sent += followers
        open_ = sorted(open_ + followers, key=lambda request: request.arrival_s)
    return sent


def test_a_turn_begins_with_all_that_was_said_and_comes_after_a_pause():
    sent = [request for request in play(agents()) if request.session.number == 3]
    assert len(sent) > 1
    for before, after in pairwise(sent):
        said = (before.prompt_tokens + before.output_tokens) // 16
        assert list(after.names[:said]) == list(before.names)
        assert after.prompt_tokens > before.prompt_tokens + before.output_tokens
        assert after.arrival_s > before.arrival_s + 1


def test_sessions_of_one_application_share_its_blocks_and_no_others():
    first = {request.session.number: set(request.names) for request in agents().arrivals()}
    assert first[0] & first[2] == {b"a0:0", b"a0:1"}  # 40 tokens: two whole blocks
    assert not first[0] & first[1]


def test_sub_requests_share_the_session_so_far_and_the_turn_comes_after_the_last():
    workload = agents(replace(SHAPE, fan_out_share=1.0, fan_out=3), sessions=1)
    fan = list(workload.arrivals())
    assert [request.request_id for request in fan] == ["s0.0.0", "s0.0.1", "s0.0.2"]
    assert set(fan[0].names) & set(fan[1].names) == {b"a0:0", b"a0:1"}
    assert workload.after(fan[1], 5.0) == [] == workload.after(fan[0], 6.0)
    (turn,) = workload.after(fan[2], 7.0)
    assert (turn.request_id, turn.arrival_s) == ("s0.0", 7.0)


def test_as_many_are_sent_as_were_announced_and_none_is_too_long():
    shape = replace(SHAPE, fan_out_share=0.3, max_context_tokens=400)
    workload = agents(shape, sessions=40)
    sent = play(workload)
    assert len(sent) == workload.total > 40
    assert len({request.request_id for request in sent}) == len(sent)
    assert max(request.prompt_tokens + request.output_tokens for request in sent if request.session.turn) <= 400


def test_what_is_asked_depends_on_the_seed_and_not_on_how_fast_answers_come():
    def asked(seed: int) -> dict[str, tuple[int, int]]:
        return {r.request_id: (r.prompt_tokens, r.output_tokens) for r in play(agents(seed=seed))}

    assert asked(0) == asked(0) != asked(1)
