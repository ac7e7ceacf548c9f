"""`bench reality`: how orders are compared, by hand; and the whole of it over fake engines."""

import pytest

from shoal.bench.cli import run_bench
from shoal.bench.reality import kept_order


def test_only_pairs_that_are_apart_count_and_each_round_for_itself():
    simulated_s = {"a": 1.0, "b": 1.1, "c": 2.0}
    real_s = {"a": [1.0, 1.0, 1.0], "b": [9.0, 1.0, 1.0], "c": [2.0, 0.5, 1.5]}
    assert kept_order(simulated_s, real_s, 0.15) == {"a < c": 2, "b < c": 1}


@pytest.mark.slow
def test_the_whole_of_it_over_fake_engines(capsys):
    size = ("--engine", "fake", "--requests", "60", "--calibrate", "20", "--rate", "30", "--rounds", "1")
    order = ("--order", "round_robin", "least_work", "--order-requests", "20")
    assert run_bench("reality", [*size, *order, "--wait", "60"]) == 0
    assert "tpot_mean_err" in capsys.readouterr().out
