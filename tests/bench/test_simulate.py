"""The command: the same numbers every time, one page, and what it refuses."""

import argparse
import re

import pytest

from shoal.bench import simulate
from shoal.bench.cli import run_bench
from shoal.proto.errors import InvalidArgument

CONFIG = """
instances: 3
frontends: 2
block_size: 64
total_blocks: 400
report_delay_s: 0.05
workload: {kind: agents, sessions: 8, sessions_per_s: 2, turns: 3, fan_out_share: 0.3}
"""


def arguments(folder, text=CONFIG, **more):
    (folder / "sim.yaml").write_text(text)
    return argparse.Namespace(config=folder / "sim.yaml", html=None, **more)


def test_two_runs_of_one_file_decide_alike(tmp_path):
    first, again = (simulate.run(arguments(tmp_path)).result for _ in range(2))
    for result in (first, again):
        assert result.pop("wall_s") > 0
        result.pop("requests_per_wall_s")
    assert first == again
    assert first["ends"] == {"completed": first["decisions"]}
    assert 0 < first["hit_rate"] < 1


def test_the_page_holds_its_plots_and_the_numbers(tmp_path):
    pytest.importorskip("matplotlib")
    args = arguments(tmp_path)
    args.html = tmp_path / "page.html"
    result = simulate.run(args).result
    page = args.html.read_text()
    assert re.search(r'src="data:image/png;base64,[A-Za-z0-9+/=]{10000,}"', page)
    assert f"<td>{result['decision_hash']}" in page
    assert "workload.sessions_per_s<td>2" in page
    assert "http" not in page.replace("httpx", "")


def test_a_wrong_file_is_refused_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # a benchmark may be running
    with pytest.raises(InvalidArgument, match="policy"):
        simulate.run(arguments(tmp_path, CONFIG + "policy: best"))
    assert run_bench("simulate", ["--config", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml" in capsys.readouterr().err
