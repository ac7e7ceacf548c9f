import argparse

import pytest

from shoal.bench import cli
from shoal.bench.lock import bench_lock


def test_every_benchmark_can_be_loaded_and_says_what_it_does(capsys):
    for name in cli.BENCHES:
        with pytest.raises(SystemExit) as ended:
            cli.main([name, "--help"])
        assert ended.value.code == 0
        out = capsys.readouterr().out
        assert f"usage: shoal bench {name}" in out and "--json" in out and "--wait" in out


def test_the_list_is_in_the_help(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    listed = capsys.readouterr().out
    assert all(name in listed for name in cli.BENCHES)


def test_it_fits_into_another_parser():
    parser = argparse.ArgumentParser()
    cli.add_parser(parser.add_subparsers())
    args = parser.parse_args(["bench", "load", "--rate", "5", "--json"])
    assert (args.bench, args.rest) == ("load", ["--rate", "5", "--json"])


def test_a_held_lock_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with bench_lock("overhead"):
        assert cli.main(["load", "--url", "http://127.0.0.1:1", "--rate", "1"]) == 2
    assert "another benchmark runs: `shoal bench overhead`" in capsys.readouterr().err
