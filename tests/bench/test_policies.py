"""`bench policies`: its arithmetic by hand, and one small grid end to end on a trace of its own."""

import argparse
import json
from concurrent.futures import Future

import pytest

from shoal.bench import policies, policy_grid
from shoal.bench.policy_grid import Condition, Run, Setting, TraceFile, bisect_rate, config_of
from shoal.proto.errors import NotFound

HERE, THERE = Condition("a", 2, 0.9, 1), Condition("b", 2, 0.9, 1)


def values(slo_met_share: float, ttft_ms_p99: float) -> dict[str, float]:
    return {"slo_met_share": slo_met_share, "ttft_ms_p99": ttft_ms_p99}


def test_intervals_are_students():
    assert policies.interval([5.0]) == {"mean": 5.0}
    # mean 2, deviation 1, three runs: 4.30 / sqrt(3)
    assert policies.interval([1.0, 2.0, 3.0]) == pytest.approx({"mean": 2.0, "low": -0.4826, "high": 4.4826}, abs=1e-3)


def test_seeds_of_a_cell_are_put_together():
    measured = [(Run(HERE, "x", seed, 1.0), values(share, 7.0)) for seed, share in enumerate((0.4, 0.6))]
    [cell] = policies.summarize_cells(measured)
    assert cell["condition"] == HERE._asdict() and cell["policy"] == "x"
    assert cell["slo_met_share"]["mean"] == 0.5 and cell["ttft_ms_p99"]["high"] == 7.0


def test_ranking_is_relative_to_the_best_of_each_condition():
    runs = [
        (Run(HERE, "x", 0, 1.0), values(1.0, 100.0)),
        (Run(HERE, "y", 0, 1.0), values(0.8, 200.0)),
        (Run(THERE, "x", 0, 1.0), values(0.3, 400.0)),
        (Run(THERE, "y", 0, 1.0), values(0.6, 200.0)),
    ]
    first, second = policies.rank(policies.summarize_cells(runs))
    assert first == pytest.approx(
        {"policy": "y", "relative_goodput": 0.9, "worst_relative_goodput": 0.8, "relative_ttft_p99": 2**0.5}
    )
    assert second["policy"] == "x" and second["relative_goodput"] == 0.75
    assert "| `y` | 0.900 | 0.800 | 1.41 x |" in policies.as_markdown("placement_only", [first, second], 2)


def test_moving_gains_on_its_own_policy_and_on_the_best_other():
    placed = [(Run(HERE, "x", 0, 1.0), values(1.0, 400.0)), (Run(HERE, "y", 0, 1.0), values(1.0, 200.0))]
    moved = [(Run(HERE, "x", 0, 1.0, migrate=True), values(1.0, 100.0))]
    [gain] = policies.gain_of_moving(*map(policies.summarize_cells, (placed, moved)))
    assert (gain["policy"], gain["over_itself"], gain["over_best_other"]) == ("x", 4.0, 2.0)


def test_more_frontends_are_compared_with_one_of_the_same_condition():
    runs = [
        (Run(HERE, "x", 0, 1.0), values(1.0, 100.0)),
        (Run(HERE._replace(frontends=4), "x", 0, 1.0), values(1.0, 110.0)),
        (Run(THERE._replace(frontends=4), "x", 0, 1.0), values(1.0, 999.0)),
    ]
    [cost] = policies.cost_of_frontends(policies.summarize_cells(runs))
    assert cost["condition"]["workload"] == "a" and cost["over_one"] == pytest.approx(1.1)


@pytest.mark.parametrize("limit", [1.0, 40.0, 900.0])
def test_bisection_finds_the_highest_rate_from_any_guess(limit):
    found = bisect_rate(lambda rate: rate <= limit, 40.0, rounds=6)
    assert limit / 1.012 <= found <= limit


def test_bisection_gives_up_where_no_rate_is_kept():
    assert bisect_rate(lambda rate: False, 8.0, rounds=3) == 0.0


def test_seeds_take_windows_of_their_own_and_large_fleets_copies():
    setting = Setting(policies.Path("traces"), 200.0, 0.05)
    small = config_of(setting, Run(Condition("azure-code", 1, 0.9, 4), "random", 2, 5.0))
    assert (small.workload.start_s, small.workload.end_s) == (300.0, pytest.approx(300 + 1000 / 3.18))
    assert (small.workload.copies, small.frontends, small.report_delay_s) == (1, 4, 0.05)
    large = config_of(setting, Run(Condition("azure-code", 64, 0.9, 1), "random", 0, 320.0))
    assert large.workload.copies == 16  # 64,000 requests of at most 4,134 each
    assert large.workload.end_s == pytest.approx(4000 / 3.18)


@pytest.mark.parametrize("workload", policy_grid.WORKLOADS)
def test_every_workload_has_a_configuration(workload):
    setting = Setting(policies.Path("traces"), 10.0, 0.0)
    assert config_of(setting, Run(Condition(workload, 2, 0.9, 1), "random", 0, 5.0)).instances == 2


def args(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    policies.add_arguments(parser)
    return parser.parse_args(list(given))


def test_missing_traces_are_named(tmp_path):
    with pytest.raises(NotFound, match="--traces"):
        policies.run(args("--traces", str(tmp_path / "none")))


class Here:
    """Stands in for the processes."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, work, given):
        future = Future()
        future.set_result(work(given))
        return future


def test_small_grid_end_to_end(tmp_path, monkeypatch):
    rows = ({"timestamp": n * 100, "input_length": 600, "output_length": 20, "hash_ids": [n % 4]} for n in range(200))
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr(policies, "ProcessPoolExecutor", Here)
    monkeypatch.setitem(policy_grid.WORKLOADS, "agents", TraceFile("t.jsonl", 10.0, 20.0))
    grid = ("--workloads", "agents", "--policies", "random", "prefix_least_work", "--utilisations", "0.5")
    size = ("--instances", "2", "--frontends", "1", "2", "--seeds", "1", "--seconds", "2")
    report = tmp_path / "ranking.md"
    result = policies.run(args("--traces", str(tmp_path), *grid, *size, "--report", str(report))).result
    assert result["runs"] == 8
    assert result["capacity_rps"]["agentsx2"] > 0
    assert len(result["gain_of_moving"]) == 4 and len(result["cost_of_frontends"]["with_migration"]) == 2
    table = result["placement_only"]
    assert {row["policy"] for row in table["ranking"]} == {"random", "prefix_least_work"}
    assert [cell["slo_met_share"]["mean"] for cell in table["cells"]] == [1.0] * 4
    assert "prefix_least_work" in report.read_text()
