import pytest

from shoal.bench.overhead import NARROW, PLAIN, SHOAL, WIDE, Row, score
from shoal.proto.errors import ServerFault


def rounds(count: int, *, base_ms: list[float], failed: int = 0) -> list[Row]:
    rows = []
    for number in range(count):
        base = base_ms[number]
        rows += [
            Row(SHOAL, NARROW, number, base + 2, base / 5 + 0.2, base / 5 + 0.3, 1.0, 10, failed, step_ms=base / 5),
            Row(PLAIN, NARROW, number, base, base / 5, base / 5, 1.0, 10, 0),
            Row(SHOAL, WIDE, number, base * 9, base + 1, base, 11.0 / base, 48, 0),
            Row(PLAIN, WIDE, number, base * 9, base, base, 10.0 / base, 48, 0),
        ]
    return rows


def test_differences_are_taken_within_a_round_so_that_a_slow_machine_does_not_matter():
    result = score(rounds(3, base_ms=[50.0, 500.0, 90.0]), seed=0)
    assert result["added_ttft_ms_p50"] == pytest.approx(2)
    assert result["added_itl_ms_p50"] == pytest.approx(0.2)
    assert result["added_itl_ms_p50_wide"] == pytest.approx(1)
    assert result["path_ms_per_token"] == pytest.approx(0.3)
    assert result["throughput_ratio"] == pytest.approx(1.1)
    low, high = result["intervals_95"]["throughput_ratio"]
    assert low <= result["throughput_ratio"] <= high


def test_a_round_that_one_side_did_not_finish_does_not_count():
    rows = rounds(2, base_ms=[50.0, 60.0])
    assert score(rows[:-1], seed=0)["rounds"] == 1
    assert score(rows[:-1], seed=0)["rounds_dropped"] == 1


def test_failures_in_every_round_are_no_result():
    with pytest.raises(ServerFault, match="failed"):
        score(rounds(2, base_ms=[50.0, 60.0], failed=1), seed=0)
