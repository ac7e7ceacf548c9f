"""The search, end to end on a trace of its own, and its environment for others."""

import json
from random import Random

import numpy as np
import pytest

from shoal.bench import policy_grid
from shoal.bench.policy_grid import Condition, Part, Run, Setting, TraceFile, config_of
from shoal.bench.train import episode as e
from shoal.bench.train.trainer import Budget, Trainer
from shoal.router.weights import check_weights, read_weights, write_weights


@pytest.fixture
def traces(tmp_path, monkeypatch):
    rows = ({"timestamp": n * 100, "input_length": 600, "output_length": 9, "hash_ids": [n % 4]} for n in range(200))
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setitem(policy_grid.WORKLOADS, "agents", TraceFile("t.jsonl", 10.0, 20.0))
    return tmp_path


def drawn(traces, seconds=2.0) -> e.Episode:
    return e.with_base(e.draw(Random(1), traces, ["agents"], seconds, lambda workload, instances: 10.0 * instances))


def test_scores_are_goodput_less_a_little_for_time():
    base = {"slo_met_share": 0.5, "e2e_ms_mean": 100.0}
    assert e.score(base, base) == 0.5
    slower = {"slo_met_share": 0.6, "e2e_ms_mean": 100.0 * np.e}
    assert e.score(slower, base) == pytest.approx(0.6 - 0.2)


@pytest.mark.parametrize("seed", [0, 7, 23])
def test_training_never_sees_the_time_that_is_scored(seed):
    def window(part):
        setting = Setting(e.Path("traces"), 60.0, 0.0, part)
        return config_of(setting, Run(Condition("azure-code", 16, 0.9, 1), "random", seed, 30.0)).workload

    train, score = window(Part.TRAIN), window(Part.SCORE)
    assert 0 <= train.start_s < train.end_s <= 0.6 * 2100 <= score.start_s < score.end_s <= 2100


def test_a_search_ends_in_weights_that_say_where_they_come_from(traces):
    pytest.importorskip("cma")
    budget = Budget(generations=1, candidates=3, episodes=1, seconds=1.0)
    capacity = lambda workload, instances: 5.0 * instances  # noqa: E731
    trainer = Trainer(
        traces, ["agents"], budget, seed=3, capacity=capacity, spread=lambda work, given: list(map(work, given))
    )
    weights = trainer.weights(trainer.train(), "v1", {"cma": "4"}, {"agents": {"learned": 1.0}})
    check_weights(weights)
    assert read_weights(write_weights(weights)) == weights
    assert len(trainer.curve) == 1 and trainer.curve[0].best >= trainer.curve[0].mean
    assert weights.provenance.episodes == trainer.played > 3
    assert weights.seen["long"].mean == pytest.approx(np.log1p(0.6), rel=0.2)


def test_an_agent_of_others_places_every_request(traces):
    pytest.importorskip("gymnasium")
    from shoal.bench.train.env import Placing  # noqa: PLC0415 - needs the extra

    one = drawn(traces)
    placing = Placing(one)
    rows, _ = placing.reset()
    assert rows.shape == placing.observation_space.shape
    steps, rewarded, over = 0, 0.0, False
    while not over:
        rows, reward, over, _, _ = placing.step(0)
        steps, rewarded = steps + 1, rewarded + reward
    assert steps == placing._simulation.workload.total and rewarded != 0
    placing.reset()
    placing.close()
