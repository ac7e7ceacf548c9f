import argparse

import pytest

from shoal.bench import fanin
from shoal.bench.fanin import Window, host_shares, plan, score
from shoal.bench.record import Record
from shoal.bench.workload import LoadRequest
from shoal.proto.errors import InvalidArgument


def arguments(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    fanin.add_arguments(parser)
    return parser.parse_args(list(flags))


def record(*token_s: float, error: str = "") -> Record:
    made = Record(LoadRequest(0, 0.0, 1, 9), error_kind=error)
    for at_s in token_s:
        made.add_chunk(at_s, 2)
    return made


def said(**numbers: float) -> dict[str, float]:
    return {"view_age_ms_p99": 30.0, "frames": 400, "frames_with_tokens": 360, "frame_bytes": 4000, "seconds": 10.0,
            "links": 2, **numbers}  # fmt: skip


def test_every_instance_has_one_process():
    assert host_shares(64, 32) == [(0, 32), (32, 32)]
    assert host_shares(5, 2) == [(0, 2), (2, 2), (4, 1)]
    assert host_shares(3, 8) == [(0, 3)]


def test_only_tokens_within_the_window_count():
    window = Window(10.0, 20.0, {"frontend": 5.0, "fakes": 4.0, "clients": 1.0}, said())
    args = arguments("--instances", "2", "--step-ms", "50")
    result = score(args, window, [record(9.9, 10.0, 19.9), record(20.0), record(15.0, error="interrupted")], links=2)
    assert result["tokens_per_s"] == pytest.approx(2 * 3 / 10)
    assert result["cpu_share"] == pytest.approx(0.5)
    assert result["view_age_ms_p99"] == 30.0
    assert (result["steps_per_s_asked"], result["steps_per_s"]) == (20.0, 18.0)
    assert result["step_rate_share"] == pytest.approx(0.9)
    assert (result["failed"], result["links_lost"]) == (0, 0)


def test_a_broken_stream_and_a_lost_link_show():
    window = Window(0.0, 1.0, {"frontend": 0.0, "fakes": 0.0, "clients": 0.0}, said(links=1))
    result = score(arguments("--instances", "2"), window, [record(0.5, error="disconnect")], links=2)
    assert (result["failed"], result["links_lost"]) == (1, 1)


def test_a_rate_is_another_word_for_a_step():
    args = arguments("--rate", "40", "--step-ms", "99")
    assert fanin.step_ms_of(args) == 25.0


def test_there_are_more_requests_than_the_run_can_finish():
    args = arguments("--instances", "3", "--streams", "2", "--seconds", "10", "--start-timeout", "90",
                     "--step-ms", "10", "--output-tokens", "100")  # fmt: skip
    assert len(plan(args)) >= 3 * 2 * 100_000 / (10 * 100)


@pytest.mark.parametrize("flags", [["--instances", "0"], ["--seconds", "-1"], ["--rate", "0"], ["--per-process", "0"]])
def test_impossible_settings_are_refused(flags):
    with pytest.raises(InvalidArgument):
        fanin.check(arguments(*flags))
