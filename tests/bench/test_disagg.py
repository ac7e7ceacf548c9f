"""The simulated comparison is whole: every request ends, split fleets hand over, and the gains are what they say."""

import argparse

import pytest

from shoal.bench.disagg import add_arguments, config_of, fleets, gains, run_fleet

SMALL = ["--instances", "3", "--requests", "120", "--rate", "3"]


def arguments():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(SMALL)


@pytest.mark.parametrize("name", ["split:1+2", "adaptive"])
def test_a_split_fleet_hands_over_after_the_first_token(name):
    row = run_fleet(name, config_of(arguments(), fleets(3)[name]))
    handed_over = row["moves_by_ending"].get("disaggregate committed", 0)
    assert handed_over > 60
    assert row["moves"] >= handed_over


def test_gains_compare_with_the_largest_and_with_the_best_chunk():
    def row(fleet, tpot, goodput):
        return {"fleet": fleet, "tpot_ms_p99": tpot, "goodput": goodput}

    rows = [row("colocated:512", 40.0, 7.0), row("colocated:2048", 60.0, 8.0), row("adaptive", 20.0, 8.0)]
    assert gains(rows) == {
        "tpot_p99_over_colocated_2048": 3.0,
        "tpot_p99_over_best_colocated": 2.0,
        "goodput_over_best_colocated": 1.0,
    }
