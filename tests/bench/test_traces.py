import gzip
import os
import random
from itertools import pairwise
from pathlib import Path

import pytest

from shoal.bench import traces
from shoal.bench.traces import TraceRow
from shoal.proto.errors import InvalidArgument, NotFound

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-01-31 23:59:59.7500000,100,10
2023-02-01 00:00:00.2500001,200,20
2023-02-01 00:00:01,300,30
"""
MOONCAKE = """{"timestamp": 3000, "input_length": 700, "output_length": 5, "hash_ids": [0, 1]}
{"timestamp": 3000, "input_length": 600, "output_length": 6, "hash_ids": [0, 2]}
{"timestamp": 6000, "input_length": 512, "output_length": 7, "hash_ids": [0]}
"""
SHARED = '{"arrival_time_ns": 1500000000, "input_toks": 33, "output_toks": 4, "hash_ids": [0, 1]}\n'


def rng() -> random.Random:
    return random.Random(0)


@pytest.mark.parametrize("packed", [False, True])
def test_azure_times_start_at_zero_and_cross_midnight(tmp_path, packed):
    path = tmp_path / ("a.csv.gz" if packed else "a.csv")
    path.write_bytes(gzip.compress(AZURE.encode()) if packed else AZURE.encode())
    rows = traces.read_trace(path, rng())
    assert [row.at_s for row in rows] == pytest.approx([0, 0.5, 1.25], abs=1e-5)
    assert [(row.input_tokens, row.output_tokens) for row in rows] == [(100, 10), (200, 20), (300, 30)]


def test_mooncake_ticks_are_spread_up_to_the_next_tick(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text(MOONCAKE)
    rows = traces.read_trace(path, rng())
    assert rows[0].at_s == 0 and 0 < rows[1].at_s < 3
    assert {row.block_ids for row in rows[:2]} == {(0, 1), (0, 2)}
    assert rows[2].block_ids == (0,) and rows[2].block_tokens == 512
    assert rows == traces.read_trace(path, rng())


def test_a_trace_with_a_fine_clock_is_not_spread():
    rows = [TraceRow(0.1, 1, 1), TraceRow(0.2, 1, 1)]
    assert traces.spread_ticks(rows, rng()) == rows


def test_nanosecond_form_has_small_blocks():
    assert traces.parse_mooncake([SHARED, "\n"]) == [TraceRow(1.5, 33, 4, (0, 1), 16)]


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"timestamp": 1}', '{"timestamp": "x", "input_length": 1, "output_length": 1}']
)
def test_a_bad_line_is_named_by_its_number(line):
    with pytest.raises(InvalidArgument, match="trace line 2"):
        traces.parse_mooncake([SHARED, line])


def test_a_bad_csv_row_is_named_by_its_number():
    with pytest.raises(InvalidArgument, match="trace line 3"):
        traces.parse_azure(["TIMESTAMP,ContextTokens,GeneratedTokens", "2023-01-01 00:00:00,1,1", "yesterday,1,1"])


def test_unknown_form_and_empty_file(tmp_path):
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "a.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n")
    for name in ("a.txt", "a.csv"):
        with pytest.raises(InvalidArgument):
            traces.read_trace(tmp_path / name, rng())


def test_files_are_found_by_path_or_in_the_folder_named(tmp_path):
    (tmp_path / "x.csv").write_text(AZURE)
    assert traces.find_trace(str(tmp_path / "x.csv"), {}) == tmp_path / "x.csv"
    assert traces.find_trace("x.csv", {"SHOAL_TRACES": str(tmp_path)}) == tmp_path / "x.csv"
    with pytest.raises(NotFound, match="not set"):
        traces.find_trace("x.csv", {})


def test_cut_and_scale():
    rows = [TraceRow(float(at_s), 1000, 100, (0, 1), 512) for at_s in range(10)]
    assert [row.at_s for row in traces.cut(rows, 3, 6)] == [0, 1, 2]
    assert traces.scale_time(rows, 2)[-1].at_s == 18
    assert traces.scale_to_rate(rows, 4)[-1].at_s == pytest.approx(9 / 4)
    small = traces.scale_lengths(rows, 0.1, max_input_tokens=80, max_output_tokens=500)[0]
    assert (small.input_tokens, small.output_tokens, small.block_tokens) == (80, 10, 51)


@pytest.mark.skipif("SHOAL_TRACES" not in os.environ, reason="no trace data: set SHOAL_TRACES to its folder")
@pytest.mark.parametrize(
    ("name", "count"),
    [("azure_llm_2023_code_0-35min.csv.gz", 6621), ("mooncake_fast25_conversation_0-40min.jsonl.gz", 7851)],
)
def test_public_traces_are_read_whole(name, count):
    path = Path(os.environ["SHOAL_TRACES"]) / name
    if not path.is_file():
        pytest.skip(f"no {name}")
    rows = traces.read_trace(path, rng())
    assert len(rows) == count
    assert all(before.at_s <= after.at_s for before, after in pairwise(rows))
