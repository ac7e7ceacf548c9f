"""The terms of `least_delay`, worked out by hand."""

import pytest

from shoal.router.contract import InstanceLoad, RouteRequest
from shoal.router.delay import TERMS
from shoal.router.foresight import Foresight, StepCoefficients
from shoal.router.snapshot import Question
from tests.tools.routing import CHAIN, chosen, view_of

STEP = StepCoefficients(a_ms=10.0, b_ms=0.5, c_ms=1000.0, d_ms=0.1, e_ms=2.0)
IDLE = (InstanceLoad(), 0)
BUSY = (InstanceLoad(running=3, context_tokens=500), 0)  # its steps take 10 + 0.3 + 1
HIT = (InstanceLoad(running=3), 10)  # 100 of the 105 tokens; steps of 10.3


def terms(name: str, **instances: tuple[InstanceLoad, int]) -> list[float]:
    return list(TERMS[name](question(**instances)))


def question(**instances: tuple[InstanceLoad, int]) -> Question:
    view = view_of(**instances)
    view.foresight = Foresight(STEP)
    return view.question(RouteRequest("r", 105, 50, CHAIN, expected_new_tokens=20.0), 0.0)


def test_queue_is_computed_in_steps_that_decode_too():
    queue = (InstanceLoad(waiting=1, queued_prefill_tokens=200), 0)  # 100 + 1000 * 200 * 100 / 1e6 + 200 / 256 * 10.1
    two = (InstanceLoad(waiting=2, queued_prefill_tokens=200), 0)  # half the pairs: 100 + 10 + 200 / 256 * 10.2
    assert terms("queue_ms", idle=IDLE, queue=queue, two=two) == pytest.approx([0.0, 127.890625, 117.96875])


def test_own_prefill_is_what_is_not_cached_and_its_step():
    assert terms("prefill_ms", idle=IDLE, hit=HIT) == pytest.approx([58.0125 + 10, 3.0125 + 10.3])


def test_own_answer_goes_at_the_pace_of_the_batch():
    own_ms = 0.1 + 2 * (105 + 10) / 1000
    assert terms("pace_ms", idle=IDLE, busy=BUSY) == pytest.approx([20 * (10 + own_ms), 20 * (11.3 + own_ms)])


def test_own_prefill_stalls_each_of_the_others():
    assert terms("stall_ms", idle=IDLE, hit=HIT) == pytest.approx([0.0, 3 * 3.0125])


def test_own_tokens_slow_the_others_as_long_as_both_run():
    assert terms("drag_ms", busy=BUSY) == pytest.approx([0.33 * 10 * 3])


def test_a_queue_counts_once_for_each_that_is_there():
    crowd = (InstanceLoad(running=3, waiting=1, queued_prefill_tokens=200), 0)
    assert terms("crowd_ms", idle=IDLE, busy=BUSY, crowd=crowd) == pytest.approx([0.0, 0.0, 0.5 * 200 * 4])


def test_late_is_what_passes_the_goal():
    queue = (InstanceLoad(waiting=1, queued_prefill_tokens=2000), 0)
    waited_ms = 1000 + 1000 * 2000 * 1000 / 1e6 + 2000 / 256 * 10.1
    goal_ms = 500 + 2 * (58.0125 + 10)
    assert terms("late_ms", idle=IDLE, queue=queue) == pytest.approx([0.0, waited_ms + 58.0125 + 10.1 - goal_ms])


def test_slow_is_what_passes_the_goal_for_each_token():
    full = (
        InstanceLoad(running=3, context_tokens=10_000),
        0,
    )  # 30.3 ms a step, 30.63 with this request; the goal is 30
    behind = (InstanceLoad(running=3, step_ms=42.0), 0)
    assert terms("slow_ms", idle=IDLE, full=full, behind=behind) == pytest.approx([0.0, 0.63 * 20, 12.0 * 20])


def test_least_delay_weighs_a_long_queue_against_a_cached_prompt():
    assert chosen("least_delay", view_of(hit=HIT, idle=IDLE)) == {"hit"}
    swamped = (InstanceLoad(running=3, waiting=9, queued_prefill_tokens=90_000), 10)
    assert chosen("least_delay", view_of(hit=swamped, idle=IDLE)) == {"idle"}
