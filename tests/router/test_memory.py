"""What an instance may be given, worked out by hand from its future peak."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.router.contract import InstanceLoad, Placement, RouteRequest, Wait
from shoal.router.foresight import Foresight
from shoal.router.memory import future_peak_tokens, most_tokens
from shoal.router.place import place
from shoal.router.profile import build_policy
from shoal.router.view import ClusterView
from tests.tools.routing import CHAIN, instance, view_of

# In 100 steps a fifth are left, and with two deviations of n = 1, 4, 16, 25 coins: all, 0.6, 0.4, 0.36 of them.
FIFTH = Foresight(shares=np.array([0.2, 1.0]), remaining_tokens=np.array([100.0, 0.0]), new_tokens=40.0)


def foreseeing(**instances: tuple[InstanceLoad, int]) -> ClusterView:
    view = view_of(**instances)
    view.foresight = FIFTH
    return view


def ask(view: ClusterView, tokens: int = 105, policy: str = "prefix_least_work", **facts: object):
    return place(RouteRequest("r", tokens, 50, CHAIN, **facts), view, build_policy(policy), 0.0, Random(0))


def test_peak_is_the_larger_of_now_and_when_the_short_ones_are_gone():
    view = foreseeing(
        few=(InstanceLoad(running=4, free_blocks=40), 0),  # 600 used; later 0.6 * (600 + 400) + 40
        many=(InstanceLoad(running=16, free_blocks=40), 0),  # later 0.4 * (600 + 1600) + 40
        old=(InstanceLoad(running=4, free_blocks=10), 0),  # 900 used; later 0.6 * (900 + 400) + 40 is less
        queued=(InstanceLoad(waiting=1, free_blocks=100, queued_prefill_tokens=300), 2),  # later 300 + 100 + 40
    )
    question = view.question(RouteRequest("r", 105, 50, CHAIN), 0.0)
    assert future_peak_tokens(question) == pytest.approx([640 + 105, 920 + 105, 900 + 105, 440 + 85])


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 100), st.integers(0, 500)), min_size=1, max_size=5),
    st.lists(st.integers(0, 400), min_size=8, max_size=8),
    st.floats(0, 500),
)
def test_quick_bound_is_never_below_the_peak(loads, to_go, new_tokens):
    view = ClusterView()
    for number, (running, free, queued) in enumerate(loads):
        view.join(instance(f"i{number}"))
        view.observe(f"i{number}", InstanceLoad(running, 0, queued, free_blocks=free), 0.0)
    view.foresight = Foresight(
        shares=np.arange(1, 9) / 8, remaining_tokens=np.array(sorted(to_go, reverse=True), float), new_tokens=new_tokens
    )
    question = view.question(RouteRequest("r", 105, 1000, CHAIN), 0.0)
    assert (future_peak_tokens(question) <= most_tokens(question) + 1e-6).all()


def test_instance_that_cannot_hold_the_peak_is_not_chosen():
    view = foreseeing(a=(InstanceLoad(running=16, free_blocks=35), 10), b=(InstanceLoad(running=9, free_blocks=60), 0))
    assert ask(view).instance == "a"  # 0.4 * (650 + 1600) + 40 + 5 = 945 of 1000
    view.observe("a", InstanceLoad(running=25, free_blocks=35), 0.0)  # 0.36 * (650 + 2500) + 45 = 1179
    assert ask(view).instance == "b"
    view.observe("b", InstanceLoad(running=25, free_blocks=35), 0.0)
    assert ask(view) == Wait("no instance will have the KV memory that it may need", holds_up=True)
    assert ask(view, excluded=frozenset("b")) == Wait("no instance will have the KV memory that it may need")


def test_predicted_length_counts_and_its_limit_too():
    view = foreseeing(a=(InstanceLoad(running=16, free_blocks=50), 0))
    # later: 0.4 * (500 + 1600) + growth, and the prompt; 1000 tokens of memory
    assert isinstance(ask(view, tokens=119), Placement)  # grows by 40: 999
    assert isinstance(ask(view, tokens=119, expected_new_tokens=48.0), Wait)
    assert isinstance(ask(view, tokens=109, expected_new_tokens=400.0), Placement)  # by 50, its limit: 999
    assert isinstance(ask(view, tokens=111, expected_new_tokens=400.0), Wait)


def test_idle_instance_takes_whatever_fits_its_model():
    view = foreseeing(a=(InstanceLoad(free_blocks=100), 0))
    assert isinstance(ask(view, tokens=999), Placement)


def test_nothing_is_held_back_while_nothing_is_foreseen_nor_by_rules_of_other_projects():
    full = {"a": (InstanceLoad(running=12, free_blocks=0), 0)}
    assert isinstance(ask(view_of(**full)), Placement)
    assert isinstance(ask(foreseeing(**full), policy="dynamo_cost"), Placement)
    view = foreseeing(**full)
    view.foresight = replace(view.foresight, shares=np.zeros(0), remaining_tokens=np.zeros(0))
    assert isinstance(ask(view), Placement)


@pytest.mark.parametrize("seed", range(3))
def test_router_alone_never_books_beyond_the_peak(seed):
    view, rng = foreseeing(a=(InstanceLoad(free_blocks=100), 0), b=(InstanceLoad(free_blocks=100), 0)), Random(seed)
    policy = build_policy("prefix_least_work")
    for n in range(60):
        asked = RouteRequest(f"r{n}", rng.randint(5, 200), 50)
        decision = place(asked, view, policy, 0.0, rng)
        if isinstance(decision, Wait):
            break
        view.book(asked, decision, 0.0)
    assert isinstance(decision, Wait)
    assert (view.snapshot().prefill_tokens <= 1000).all()
