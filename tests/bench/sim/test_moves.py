"""Requests that move on the virtual clock end as whole as those that stay, and give back what they held."""

import pytest

from shoal.bench.sim.build import build, build_planners
from shoal.bench.sim.config import SimConfig
from shoal.bench.sim.request import End

CROWDED = {
    "instances": 4,
    "block_size": 64,
    "total_blocks": 400,
    "policy": "round_robin",
    "max_model_len": 16_384,
    "migration": {},
    "workload": {
        "kind": "synthetic",
        "requests": 400,
        "rate_rps": 20,
        "arrival": "gamma:2",
        "input_tokens": 1500,
        "input_sigma": 1.2,
        "output_tokens": 300,
        "output_sigma": 1.2,
        "max_input_tokens": 12_000,
        "max_output_tokens": 3_000,
    },
}


def run(**changes):
    config = SimConfig(**{**CROWDED, **changes})
    simulation, moves = build(config), build_planners(config)
    return simulation, simulation.run(moves), moves


@pytest.mark.parametrize("seed", [1, 2])
def test_every_request_ends_whole_and_every_block_is_given_back(seed):
    simulation, results, (moves,) = run(seed=seed)
    committed = sum(count for (_, ending), count in moves.endings.items() if ending == "committed")
    assert committed > 5
    assert not moves.flying
    assert results.ends == {End.COMPLETED: 400}
    for instance in simulation.instances.values():
        instance.model.check()
        assert instance.model.load().free_blocks == CROWDED["total_blocks"]
        assert not instance.requests


def test_the_same_seed_makes_the_same_moves():
    fewer = {"workload": {**CROWDED["workload"], "requests": 150}}
    one, other = (
        [moves.endings, simulation.decision_hash, moves.pauses_s]
        for simulation, _, (moves,) in (run(**fewer), run(**fewer))
    )
    assert one == other and sum(one[0].values()) > 5
