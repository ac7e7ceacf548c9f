"""The configuration can name only policies and scorers that exist, with weights that keep a cost a cost."""

import pytest

from shoal.proto.config import ClusterConfig
from shoal.proto.errors import InvalidArgument
from shoal.router.profile import PROFILES, build_policy
from shoal.router.scorers import SCORERS


@pytest.mark.parametrize("name", PROFILES)
def test_without_weights_only_the_heuristic_of_its_name_counts(name):
    policy = build_policy(name)
    assert policy.name == name
    assert {scorer: weight for scorer, weight in policy.weights.items() if weight} == PROFILES[name].weights
    assert PROFILES[name].weights.keys() <= SCORERS.keys()


def test_every_policy_of_the_configuration_exists():
    assert set(ClusterConfig.model_fields["policy"].annotation.__args__) == set(PROFILES)


def test_every_scorer_can_be_weighted():
    assert build_policy("round_robin", dict.fromkeys(SCORERS, 2.0)).weights == dict.fromkeys(SCORERS, 2.0)


def test_unknown_policy_is_named_with_the_choices():
    with pytest.raises(InvalidArgument, match=r"policy: must be one of prefix_least_work, .* given 'fastest'"):
        build_policy("fastest")


def test_unknown_scorer_is_named():
    with pytest.raises(InvalidArgument, match=r"weights: must be among .* given 'luck'"):
        build_policy("least_work", {"luck": 1.0})


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_weight_that_rewards_load_or_is_no_number_is_refused(weight):
    with pytest.raises(InvalidArgument, match=r"weights\.kv_use"):
        build_policy("least_work", {"kv_use": weight})
