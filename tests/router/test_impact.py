"""The price of joining a mix, worked out by hand."""

import pytest

from shoal.router.contract import InstanceLoad, RouteRequest
from shoal.router.foresight import Foresight, StepCoefficients
from shoal.router.impact import decode_impact_ms, impact_ms, prefill_impact_ms
from shoal.router.snapshot import Question
from tests.tools.routing import CHAIN, chosen, view_of

STEP = StepCoefficients(a_ms=10.0, b_ms=0.5, c_ms=1000.0, d_ms=0.1, e_ms=2.0)


def question(**instances: tuple[InstanceLoad, int]) -> Question:
    view = view_of(**instances)
    view.foresight = Foresight(STEP)
    return view.question(RouteRequest("r", 105, 50, CHAIN, expected_new_tokens=20.0), 0.0)


def test_prefill_side_is_own_wait_and_everybodys_delay():
    asked = question(
        idle=(InstanceLoad(), 0),  # 105 / 2 + 1000 * 105 * 52.5 / 1e6 = 52.5 + 5.5125
        hit=(InstanceLoad(running=3), 10),  # own: 5 / 2 + 1000 * 5 * 102.5 / 1e6 = 3.0125, for it and three others
        queue=(InstanceLoad(waiting=1, queued_prefill_tokens=200), 0),  # 100 + 2 * 58.0125
    )
    assert prefill_impact_ms(asked) == pytest.approx([58.0125, 4 * 3.0125, 216.025])


def test_decode_side_is_own_pace_and_what_each_token_adds_to_the_others():
    asked = question(idle=(InstanceLoad(), 0), busy=(InstanceLoad(running=3, context_tokens=500), 0))
    adds_ms = 0.1 + 2 * (105 + 10) / 1000  # 0.33
    assert decode_impact_ms(asked) == pytest.approx([20 * (10 + adds_ms), 20 * (10 + 0.3 + 1 + 4 * adds_ms)])


def test_both_sides_weigh_half():
    asked = question(a=(InstanceLoad(running=2, context_tokens=90), 4))
    assert impact_ms(asked) == pytest.approx((prefill_impact_ms(asked) + decode_impact_ms(asked)) / 2)


def test_policy_takes_the_cheapest_mix():
    view = view_of(a=(InstanceLoad(running=20, context_tokens=9000), 10), b=(InstanceLoad(), 0))
    assert chosen("least_impact", view) == {"b"}
    assert chosen("least_impact", view_of(a=(InstanceLoad(), 10), b=(InstanceLoad(), 0))) == {"a"}
