"""A simulated fleet follows its load, and whoever leaves takes nothing along."""

import pytest

from shoal.bench.sim.build import build, build_planners
from shoal.bench.sim.config import SimConfig
from shoal.bench.sim.request import End

TIDAL = {
    "instances": 2,
    "block_size": 64,
    "total_blocks": 400,
    "max_model_len": 16_384,
    "scaling": {"grow_below_tokens": 2000, "shrink_above_tokens": 5000, "patience_s": 1, "cooldown_s": 2},
    "start_s": 2,
    "workload": {
        "kind": "synthetic",
        "requests": 800,
        "rate_rps": 8,
        "tide": 0.95,
        "tide_s": 50,
        "input_tokens": 1000,
        "output_tokens": 300,
    },
}


@pytest.mark.parametrize("migration", [None, {}])
def test_the_fleet_grows_and_shrinks_with_the_tide_and_loses_nothing(migration):
    config = SimConfig(**{**TIDAL, "migration": migration})
    simulation, planners = build(config), build_planners(config)
    results = simulation.run(planners)
    summary = planners[-1].summary()
    assert results.ends == {End.COMPLETED: 800}
    assert summary["most_instances"] > len(simulation.instances)
    assert 2 * results.ended_s < 3600 * summary["instance_hours"] < summary["most_instances"] * results.ended_s
    for instance in simulation.instances.values():
        instance.model.check()
