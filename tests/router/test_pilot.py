"""Who decides for each request, without a cluster: stages, rails and what is remembered."""

from random import Random

import pytest

from shoal.router import pilot as p
from shoal.router import rails
from shoal.router.contract import InstanceLoad, Placement, RouteRequest
from shoal.router.pilot import Pilot, Wanted
from shoal.router.profile import build_policy
from shoal.router.rollout import Stage
from shoal.router.weights import RouterWeights, Seen, write_weights
from tests.tools.routing import CHAIN, view_of

LOAD = InstanceLoad(free_blocks=50, step_ms=10.0)
RAW = write_weights(RouterWeights("v1", residual={"miss": 1.0}))


def view():
    return view_of(a=(LOAD, 0), b=(LOAD, 0), c=(LOAD, 0), d=(LOAD, 10))


def place(pilot: Pilot, n: int = 0, tokens: int = 105) -> Placement:
    decision = pilot.place(RouteRequest(f"r{n}", tokens, 5, CHAIN), view(), 0.0, Random(n))
    assert isinstance(decision, Placement)
    return decision


def at(stage: Stage, raw: bytes = RAW, share: float = 0.95) -> Pilot:
    pilot = Pilot(build_policy("join_shortest_queue"))
    pilot.follow(Wanted(1, stage, raw, share))
    return pilot


def canaries(pilot: Pilot, count: int = 100) -> list[Placement]:
    return [one for n in range(count) if (one := place(pilot, n)).policy != "join_shortest_queue" or one.rail]


def test_without_weights_the_configured_policy_decides_and_nothing_is_kept():
    pilot = Pilot(build_policy("join_shortest_queue"))
    assert place(pilot).policy == "join_shortest_queue"
    pilot.ended("r0", False)
    assert pilot.counts() == Pilot(pilot.policy).counts()


def test_in_shadow_weights_are_asked_and_decide_nothing():
    pilot = at(Stage.SHADOW)
    assert not canaries(pilot, 20)
    assert pilot.asked["asked"] == 20 and 0 < pilot.asked["agreed"] < 20  # ties are broken at random; d has the prompt


def test_as_canary_weights_decide_for_their_share():
    placements = [place(at(Stage.CANARY, share=0.5), n) for n in range(100)]
    theirs = [one for one in placements if one.policy == "learned v1"]
    assert 30 < len(theirs) < 70
    assert {one.instance for one in theirs} == {"d"}


def test_a_file_that_is_not_believed_leaves_everything_as_it_was():
    pilot = at(Stage.CANARY)
    pilot.follow(Wanted(2, Stage.SHADOW, b'{"version": "bad", "residual": {"queue": -1}}'))
    assert "residual.queue" in pilot.refused
    assert (pilot.rollout.stage, pilot.rollout.version) == (Stage.CANARY, "v1")
    assert place(pilot)


def test_what_was_heard_before_is_no_news():
    pilot = at(Stage.CANARY)
    pilot.ended("r0", True)
    before = pilot.rollout
    pilot.follow(Wanted(1, Stage.CANARY, RAW, 0.95))
    assert pilot.rollout is before


def test_goodput_below_the_configured_policys_trips_it():
    pilot = at(Stage.CANARY, share=0.5)
    for n in range(400):
        theirs = place(pilot, n).policy == "learned v1"
        pilot.ended(f"r{n}", not theirs)
    assert pilot.rollout.stage is Stage.BACK and "goodput" in pilot.tripped
    assert place(pilot, 1000).policy == "join_shortest_queue"


def test_too_large_a_share_goes_to_the_configured_policy(monkeypatch):
    """Everybody's prompt is on d: twice a quarter is as much as it may have."""
    monkeypatch.setattr(rails, "WINDOW", 20)
    pilot = at(Stage.CANARY)
    placements = canaries(pilot, 200)
    held = [one for one in placements if one.rail.startswith("share")]
    assert held and pilot.rails.hits[rails.Rail.SHARE] == len(held)
    assert {one.policy for one in held} == {"join_shortest_queue"}


def test_out_of_range_goes_to_the_configured_policy():
    weights = RouterWeights("v1", residual={"miss": 1.0}, seen={"miss": Seen(0.0, 0.1, 0.0, 0.1)})
    placements = canaries(at(Stage.CANARY, write_weights(weights)), 20)
    assert placements and all(one.rail.startswith("range") for one in placements)


@pytest.mark.parametrize("tokens", [105, 5])
def test_requests_unlike_those_of_the_training_go_to_the_configured_policy(monkeypatch, tokens):
    monkeypatch.setattr(rails, "WINDOW", 20)
    monkeypatch.setattr(p, "LOOKED_AT", 1)
    weights = RouterWeights(
        "v1", residual={"miss": 1.0}, seen={"long": Seen(0.0, 1.0, 0.1, 0.01)}
    )  # log 1.105 = 0.0998
    pilot = at(Stage.CANARY, write_weights(weights))
    for n in range(40):
        place(pilot, n, tokens)
    assert (pilot.rails.holding is rails.Rail.DRIFT) is (tokens == 5)


def test_withdrawn_weights_are_gone():
    pilot = at(Stage.CANARY)
    pilot.follow(Wanted(2, Stage.OFF))
    assert pilot.weights is None and not canaries(pilot, 20)
