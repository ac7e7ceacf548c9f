"""The oracle of `bench chaos` on records made by hand, and one short campaign (nightly)."""

import json
import subprocess
import sys

import pytest

from shoal.bench.chaos import ENDS, RECOVERY_S, Round, growth, judge, score
from shoal.bench.chaos_faults import Strike
from shoal.bench.record import Record
from shoal.bench.workload import LoadRequest

ANSWERS = {0: [5, 6, 7]}


def record(*tokens: int, error: str = "", step_s: float = 1.0) -> Record:
    made = Record(LoadRequest(0, 0.0, 1, 3))
    for n, token in enumerate(tokens):
        made.add_chunk(step_s * n, 1)
        made.token_ids.append(token)
    made.fail(9.0, error) if error else made.complete(9.0)
    return made


def test_undisturbed_answers_and_typed_ends_are_no_violations():
    assert judge([record(5, 6, 7), record(5, error="grpc_UNAVAILABLE")], ANSWERS, None) == []
    assert "grpc_INTERNAL" not in ENDS and "timeout" not in ENDS


def test_each_kind_of_wrong_stream_is_named():
    (wrong,) = judge([record(5, 9, 7)], ANSWERS, None)
    (short,) = judge([record(5, 6)], ANSWERS, None)
    (untyped,) = judge([record(5, error="grpc_INTERNAL")], ANSWERS, None)
    assert (wrong[:2], short[:2], untyped[:2]) == ("P1", "P1", "P6")


def test_a_stream_that_stands_still_too_long_is_a_violation_of_bounded_recovery():
    strike = Strike("i0", 0.5)
    assert judge([record(5, 6, 7)], ANSWERS, strike) == []
    (late,) = judge([record(5, 6, 7, step_s=RECOVERY_S + 2)], ANSWERS, strike)
    assert late.startswith("P3")


def test_growth_is_that_of_processes_that_lived_throughout():
    first, last = {1: (100, 5), 2: (100, 5)}, {1: (101, 7), 3: (900, 9)}
    grown = growth([(0.0, {1: (1, 1)}), (100.0, first), (1900.0, last)])
    assert grown["processes_compared"] == 1 and grown["files_growth"] == 2
    assert grown["memory_growth_pct"] == pytest.approx(1.0)
    assert grown["memory_growth_pct_per_hour"] == pytest.approx(2.0)


def test_availability_counts_all_but_the_refused():
    rounds = [
        Round("link_reset", proved=True, requests=11, refused=1, failed=1, recoveries_ms=[40.0]),
        Round("instance_killed", requests=10, violations=["P2 x"]),
    ]
    result = score(rounds, {"files_growth": 0}, ["resources: y"])
    assert (result["violations"], result["faults"], result["faults_proved"]) == (2, 2, 1)
    assert result["availability"] == pytest.approx(0.95)
    assert result["recovery_ms"]["link_reset"]["max"] == 40.0 and "instance_killed" not in result["recovery_ms"]


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.timeout(900)
def test_a_campaign_finds_no_violation_and_proves_its_faults():
    command = [sys.executable, "-m", "shoal.bench", "chaos", "--minutes", "5", "--every", "8", "--json"]
    done = subprocess.run([*command, "--wait", "300"], capture_output=True, timeout=850, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["violations"] == 0, result["violation_examples"]
    assert result["faults_proved"] >= 0.8 * result["faults"] > 0
    assert result["availability"] >= 0.99
