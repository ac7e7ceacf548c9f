import argparse

import pytest

from shoal.bench import steady
from shoal.bench.record import Record
from shoal.bench.steady import plan, score
from shoal.bench.workload import LoadRequest
from shoal.proto.errors import InvalidArgument


def arguments(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    steady.add_arguments(parser)
    return parser.parse_args(list(flags))


def records(completed: int, failed: int) -> list[Record]:
    made = [Record(LoadRequest(index, 0.0, 1, 1)) for index in range(completed + failed)]
    for index, record in enumerate(made):
        record.complete(1.0) if index < completed else record.fail(1.0, "disconnect")
    return made


def test_failed_and_unsent_requests_are_lost():
    assert score(records(8, 0), 8, 0.1) == {"lost": 0, "all_blocks_free": True, "blocks_back_s": 0.1}
    assert score(records(6, 1), 8, 0.1)["lost"] == 2


def test_blocks_that_never_came_back_are_not_free():
    assert score(records(1, 0), 1, None) == {"lost": 0, "all_blocks_free": False, "blocks_back_s": None}


def test_arrivals_have_the_rate_asked_for_and_are_the_same_each_time():
    args = arguments("--rate", "8")
    requests = plan(args, 1000, seed=1)
    assert len(requests) / requests[-1].due_s == pytest.approx(8, rel=0.1)
    assert requests == plan(args, 1000, seed=1)
    assert {(request.input_tokens, request.output_tokens) for request in requests} == {(128, 32)}


@pytest.mark.parametrize("flags", [["--requests", "0"], ["--rate", "-1"], ["--warmup", "0"]])
def test_impossible_settings_are_refused(flags):
    with pytest.raises(InvalidArgument):
        steady.check(arguments(*flags))
