"""Decisions of the rules of others that know programs, worked out by hand."""

from random import Random

import pytest

from shoal.router.contract import InstanceLoad, Placement, RouteRequest
from shoal.router.place import place
from shoal.router.policies.programs import SHORT_TOKENS
from shoal.router.profile import build_policy
from shoal.router.view import ClusterView
from tests.tools.routing import instance


def view_with_home() -> ClusterView:
    """p is at home on a, which has most requests."""
    view = ClusterView()
    for name, running in (("a", 5), ("b", 3), ("c", 1)):
        view.join(instance(name, max_model_len=10_000))
        view.observe(name, InstanceLoad(running=running), 0.0)
    view.book(RouteRequest("p0", 10, 5, program="p"), Placement("a"), 0.0)
    return view


def where(policy: str, view: ClusterView, program: str, tokens: int) -> str:
    decision = place(RouteRequest("r", tokens, 5, program=program), view, build_policy(policy), 0.0, Random(0))
    assert isinstance(decision, Placement)
    return decision.instance


@pytest.mark.parametrize("policy", ["session_sticky", "autellix"])
def test_a_first_call_goes_to_the_fewest_requests_and_a_long_later_one_home(policy):
    assert where(policy, view_with_home(), "q", 3000) == "c"
    assert where(policy, view_with_home(), "", 3000) == "c"
    assert where(policy, view_with_home(), "p", 3000) == "a"


def test_autellix_sends_short_calls_to_the_fewest_requests():
    assert where("autellix", view_with_home(), "p", SHORT_TOKENS) == "c"
    assert where("autellix", view_with_home(), "p", SHORT_TOKENS + 1) == "a"
    assert where("session_sticky", view_with_home(), "p", SHORT_TOKENS) == "a"


@pytest.mark.parametrize("policy", ["session_sticky", "autellix"])
def test_a_program_whose_home_is_gone_starts_again(policy):
    view = view_with_home()
    view.leave("a")
    assert where(policy, view, "p", 3000) == "c"
