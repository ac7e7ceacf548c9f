"""The learned part of a price: bounded, the same for all, and silent where training saw nothing."""

from math import tanh
from random import Random

import numpy as np
import pytest

from shoal.router.contract import InstanceLoad, Placement, RouteRequest
from shoal.router.place import RESIDUAL, answer
from shoal.router.profile import build_policy, learned_policy
from shoal.router.residual import Residual
from shoal.router.weights import RouterWeights, Seen
from tests.tools.routing import CHAIN, view_of

HIT, IDLE = (InstanceLoad(free_blocks=100), 10), (InstanceLoad(free_blocks=100), 0)
REQUEST = RouteRequest("r", 105, 50, CHAIN, expected_new_tokens=20.0)


def question(**instances):
    return view_of(**(instances or {"hit": HIT, "idle": IDLE})).question(REQUEST, 0.0)


def test_a_residual_is_a_share_of_the_price():
    residual = Residual.of(RouterWeights("v", residual={"miss": 2.0}, band=0.25))
    added = residual.ms(question(), np.array([100.0, 200.0]))
    assert added == pytest.approx([25 * tanh(2 * 5 / 105), 50 * tanh(2.0)])


def test_no_coefficient_takes_it_beyond_its_band():
    residual = Residual.of(RouterWeights("v", residual={"miss": 10.0}, band=0.25))
    assert np.abs(residual.ms(question(), np.array([100.0, 100.0]))).max() <= 25


@pytest.mark.parametrize(("high", "asked"), [(1.0, True), (0.8, True), (0.79, False)])  # a quarter beyond is allowed
def test_outside_of_what_training_saw_it_is_not_asked(high, asked):
    weights = RouterWeights("v", residual={"miss": 1.0}, seen={"miss": Seen(0.0, high, 0.5, 0.1)})
    assert (Residual.of(weights).ms(question(), np.array([1.0, 1.0])) is not None) is asked


def test_a_feature_that_is_not_used_may_lie_anywhere():
    weights = RouterWeights("v", residual={"full": 1.0}, seen={"miss": Seen(0.0, 0.1, 0.0, 0.1)})
    assert Residual.of(weights).ms(question(), np.array([1.0, 1.0])) is not None


def test_all_zero_weights_are_the_heuristic():
    asked = question(hit=HIT, idle=IDLE, busy=(InstanceLoad(running=5, context_tokens=900, free_blocks=50), 5))
    heuristic = answer(asked, build_policy("least_delay"), Random(0))
    learned = answer(asked, learned_policy(RouterWeights("zero")), Random(0))
    assert isinstance(heuristic, Placement) and isinstance(learned, Placement)
    assert learned.instance == heuristic.instance and dict(learned.terms) == dict(heuristic.terms)


def test_what_was_learned_is_a_term_of_its_own_with_the_version_beside_it():
    placement = answer(question(), learned_policy(RouterWeights("v7", residual={"miss": 1.0})), Random(0))
    assert isinstance(placement, Placement)
    assert placement.policy == "learned v7" and not placement.rail
    assert [term.scorer for term in placement.terms["hit"]][-1] == RESIDUAL


def test_a_placement_says_when_the_learned_part_was_not_asked():
    weights = RouterWeights("v", residual={"miss": 1.0}, seen={"miss": Seen(0.0, 0.1, 0.0, 0.1)})
    placement = answer(question(), learned_policy(weights), Random(0))
    assert isinstance(placement, Placement) and "outside" in placement.rail
    assert RESIDUAL not in [term.scorer for term in placement.terms["hit"]]
