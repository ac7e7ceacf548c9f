"""Rates, bursts and lengths are those of the parameters."""

import gzip
import os
import random
from itertools import pairwise
from pathlib import Path

import pytest

from shoal.bench import stats
from shoal.bench.servegen import Lengths, draw_rows, read_clients
from shoal.proto.errors import InvalidArgument

CLIENTS = """client,window_start_s,rate_rps,cv,pattern,param1,param2
7,600,2.0,1.0,Gamma,1.0,0.5
7,1200,4.0,3.0,Gamma,0.11,2.2
8,600,1.0,1.0,Weibull,1.0,1.0
9,600,50.0,1.0,Gamma,1.0,0.02
"""
PDFS = """{"client": 7, "window_start_s": 0, "input_tokens": {"100": 0.75, "200": 0.25}, "output_tokens": {"5": 1.0}}
{"client": 8, "window_start_s": 0, "input_tokens": {"900": 1.0}, "output_tokens": {"9": 1.0}}
{"client": 9, "window_start_s": 0, "input_tokens": {}, "output_tokens": {}}
"""


@pytest.fixture
def clients(tmp_path):
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(CLIENTS.encode()))
    (tmp_path / "p.jsonl").write_text(PDFS)
    return read_clients(tmp_path / "c.csv.gz", tmp_path / "p.jsonl")


def draw(clients, **wanted):
    wanted = {"start_s": 0.0, "duration_s": 600.0, "rate_rps": None, "rng": random.Random(0)} | wanted
    return draw_rows(clients, **wanted)


def test_each_client_has_its_rate_and_lengths_and_one_without_lengths_none(clients):
    rows = draw(clients)
    seven = [row for client, row in rows if client == "7"]
    eight = [row for client, row in rows if client == "8"]
    assert {client for client, _ in rows} == {"7", "8"}
    assert (len(seven), len(eight)) == (pytest.approx(1200, rel=0.1), pytest.approx(600, rel=0.1))
    assert {(row.input_tokens, row.output_tokens) for row in eight} == {(900, 9)}
    assert sum(row.input_tokens == 100 for row in seven) / len(seven) == pytest.approx(0.75, abs=0.05)
    assert all(0 <= a.at_s <= b.at_s < 600 for (_, a), (_, b) in pairwise(rows))


def test_bursts_are_as_strong_as_the_window_says(clients):
    def variation(start_s: float) -> float:
        times = [row.at_s for client, row in draw(clients, start_s=start_s) if client == "7"]
        gaps = [after - before for before, after in pairwise(times)]
        return stats.deviation(gaps) / stats.mean(gaps)

    assert variation(0) == pytest.approx(1, abs=0.15)
    assert variation(600) > 2


def test_all_rates_are_scaled_to_the_one_asked_for(clients):
    assert len(draw(clients, rate_rps=9.0)) == pytest.approx(5400, rel=0.1)
    with pytest.raises(InvalidArgument, match="a time with requests"):
        draw(clients, start_s=5000.0)


def test_lengths_are_drawn_by_their_shares_and_never_below_one():
    lengths = Lengths.of({"0": 0.5, "10": 0.5})
    drawn = [lengths.draw(random.Random(seed)) for seed in range(400)]
    assert set(drawn) == {1, 10}
    assert 150 < drawn.count(1) < 250


def test_a_bad_line_is_named(tmp_path):
    (tmp_path / "c.csv").write_text("client,window_start_s\n7,zero\n")
    (tmp_path / "p.jsonl").write_text(PDFS)
    with pytest.raises(InvalidArgument, match="clients"):
        read_clients(tmp_path / "c.csv", tmp_path / "p.jsonl")
    (tmp_path / "p.jsonl").write_text('{"client": 7}')
    with pytest.raises(InvalidArgument, match="pdfs line 1"):
        read_clients(tmp_path / "c.csv", tmp_path / "p.jsonl")


@pytest.mark.skipif("SHOAL_TRACES" not in os.environ, reason="no trace data: set SHOAL_TRACES to its folder")
@pytest.mark.parametrize(
    ("name", "inputs", "outputs"),
    [("servegen_m-large_day1_0-12h_top20", 736, 55), ("servegen_deepseek-r1_day0_0-12h_top15", 1212, 2088)],
)
def test_public_parameters_give_their_known_mean_lengths(name, inputs, outputs):
    folder = Path(os.environ["SHOAL_TRACES"])
    if not (folder / f"{name}_clients.csv.gz").is_file():
        pytest.skip(f"no {name}")
    public = read_clients(folder / f"{name}_clients.csv.gz", folder / f"{name}_pdfs.jsonl.gz")
    rows = [row for _, row in draw(public, duration_s=12 * 3600.0, rate_rps=0.5)]
    assert stats.mean([row.input_tokens for row in rows]) == pytest.approx(inputs, rel=0.1)
    assert stats.mean([row.output_tokens for row in rows]) == pytest.approx(outputs, rel=0.1)
