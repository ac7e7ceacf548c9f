"""The benchmarks that count instead of timing, at the sizes that promises are made for. Each runs as its own command,
as a person would run it, one at a time.
"""

import json
import subprocess
import sys
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.vllm, pytest.mark.timeout(1500)]
LOCK_WAIT_S = "300"


def bench(name: str, *flags: str, within_s: float = 1200) -> dict[str, Any]:
    command = [sys.executable, "-m", "shoal.bench", name, *flags, "--json", "--wait", LOCK_WAIT_S]
    done = subprocess.run(command, capture_output=True, timeout=within_s, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_steady_stream_loses_nothing_and_grows_nothing():
    result = bench("steady", "--requests", "1000", "--warmup", "100", "--rate", "8")
    assert (result["lost"], result["warmup_failed"], result["replaced"]) == (0, 0, [])
    assert result["all_blocks_free"]
    assert result["memory_growth_pct"] <= 1


def test_a_thousand_clients_that_hang_up_leave_nothing():
    result = bench("hangup", "--clients", "1000")
    assert (result["leaked_requests"], result["replaced"], result["not_sent"], result["failed"]) == (0, [], 0, 0)
    assert result["hung_up"] + result["completed"] == 1000
    assert result["hung_up_before_first_token"] >= 200
    assert result["blocks_back_s_max"] is not None
    assert result["files_after"] <= result["files_before"]


def test_no_token_is_lost_or_changed_by_many_deaths_of_fake_instances():
    result = bench("failover", "--engine", "fake", "--runs", "40", "--instances", "3", "--timeout", "1100")
    assert result["runs"] == result["faults_proved"] == 40
    assert (result["token_mismatches"], result["text_mismatches"], result["lost_requests"]) == (0, 0, 0)
    assert result["streams_affected"] > 0 and result["not_rejoined"] == 0


def test_ten_thousand_idle_slow_and_oversized_clients_harm_nobody():
    result = bench("siege", "--seconds", "20", "--rounds", "2")
    assert (result["failed"], result["abuses_answered"]) == ({}, {})
    assert result["idle_open"] == result["idle_kept"] == 10_000
    assert result["slow_cut"] > 200 and result["abuses_refused"] > 20
    assert result["requests_siege"] > 100
    assert result["memory_growth_mib"] < 500


@pytest.mark.parametrize("api", ["http", "grpc"])
def test_one_frontend_serves_sixty_four_instances_at_once(api):
    result = bench("fanin", "--instances", "64", "--seconds", "20", "--api", api)
    assert (result["failed"], result["links_lost"]) == (0, 0)
    assert result["frontend"]["samples"] >= 64 * 100
