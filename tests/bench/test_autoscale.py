"""`bench autoscale`: its comparison by hand; the fleet's own promises are in sim/test_scaler.py."""

import pytest

from shoal.bench.autoscale import savings


def row(migration: bool, ttft_ms_p99: float, instance_hours: float) -> dict[str, float]:
    return {"migration": migration, "ttft_ms_p99": ttft_ms_p99, "instance_hours": instance_hours}


def test_a_setting_is_compared_with_the_cheapest_that_is_as_good():
    rows = [row(False, 100.0, 10.0), row(False, 50.0, 20.0), row(True, 99.0, 8.0), row(True, 60.0, 7.0)]
    assert savings(rows) == pytest.approx([0.3])  # for 50 ms there is nothing to compare with
