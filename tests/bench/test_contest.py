"""Who wins by a tenth, by hand."""

import pytest

from shoal.bench.contest import contest


def cell(workload, policy, met, e2e_ms, instances=16):
    return {
        "condition": {"workload": workload, "instances": instances},
        "policy": policy,
        "slo_met_share": {"mean": met},
        "e2e_ms_mean": {"mean": e2e_ms},
    }


def test_the_best_rival_is_another_one_for_each_measure():
    found = contest([cell("a", "x", 0.8, 100.0), cell("a", "y", 0.5, 80.0), cell("a", "learned", 0.9, 70.0)], "learned")
    [row] = found["rows"]
    assert (row["goodput_rival"], row["e2e_rival"]) == ("x", "y")
    assert (row["goodput_gain"], row["e2e_gain"]) == pytest.approx((0.125, 80 / 70 - 1))
    assert found["workloads_won_by_10pct"] == 1 and found["worst_loss"] == 0.0


def test_a_loss_in_either_measure_counts():
    cells = [
        cell("a", "x", 0.8, 100.0),
        cell("a", "learned", 0.9, 102.0),
        cell("b", "x", 1.0, 100.0),
        cell("b", "learned", 0.96, 100.0),
    ]
    found = contest(cells, "learned")
    assert found["won"] == ["a"]
    assert found["worst_loss"] == pytest.approx(0.04) and found["worst_goodput_loss"] == pytest.approx(0.04)


def test_a_workload_is_won_when_it_is_won_on_every_fleet():
    cells = [
        cell("a", "x", 0.5, 1.0),
        cell("a", "learned", 0.9, 1.0),
        cell("a", "x", 0.9, 1.0, 64),
        cell("a", "learned", 0.9, 1.0, 64),
    ]
    assert contest(cells, "learned")["workloads_won_by_10pct"] == 0


def test_our_own_heuristic_is_no_rival():
    cells = [cell("a", "least_delay", 1.0, 1.0), cell("a", "x", 0.5, 2.0), cell("a", "learned", 0.9, 1.5)]
    assert contest(cells, "learned")["rows"][0]["goodput_rival"] == "x"
    assert contest(cells[:1], "learned")["rows"] == []
