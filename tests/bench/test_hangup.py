import argparse
import asyncio
import random

import pytest

from shoal.bench import hangup
from shoal.bench.hangup import Leaving, Visit, Wave, score, visit
from shoal.bench.http_client import HttpClient, HttpTarget
from shoal.bench.record import End, Record
from shoal.bench.workload import LoadRequest, PromptMaker
from shoal.proto.errors import InvalidArgument


def arguments(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    hangup.add_arguments(parser)
    return parser.parse_args(list(flags))


class Waiting:
    """A client whose request never ends by itself."""

    def __init__(self) -> None:
        self.left = 0

    async def run(self, record: Record) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.left += 1
            raise


def test_clients_leave_everywhere_from_before_the_first_token_to_before_the_last():
    args = arguments("--output-tokens", "8")
    visits = [visit(number, args, random.Random(number)) for number in range(400)]
    after = {one.request.hang_up_after for one in visits if one.leave_after_s is None}
    assert after == set(range(1, 8))
    early = [one for one in visits if one.leave_after_s is not None]
    assert 100 < len(early) < 220 and all(one.request.hang_up_after is None for one in early)
    assert {one.api for one in visits} == {"http", "grpc"}


async def test_an_early_leaver_gives_up_its_request():
    client, request = Waiting(), LoadRequest(3, 0.0, 1, 8)
    record = Record(request)
    await Leaving({"grpc": client}, [Visit(request, "grpc", 0.01)]).run(record)
    assert (client.left, record.end) == (1, End.HUNG_UP)


async def test_a_server_is_left_by_all_who_reached_it(server):
    server.token_s = 0.05
    early, late = LoadRequest(0, 0.0, 4, 40), LoadRequest(1, 0.0, 4, 40, hang_up_after=2)
    visits = [Visit(early, "http", 0.02), Visit(late, "http", None)]
    records = [Record(one.request) for one in visits]
    async with HttpClient(HttpTarget(server.url, "whole"), PromptMaker(0, 256)) as client:
        await asyncio.gather(*(Leaving({"http": client}, visits).run(record) for record in records))
        for _ in range(100):
            if server.left == 2:
                break
            await asyncio.sleep(0.05)
    assert [record.end for record in records] == [End.HUNG_UP, End.HUNG_UP]
    assert (records[0].output_tokens, records[1].output_tokens) == (0, 2)
    assert server.left == len(server.bodies) >= 1


def wave(*, back_s: float | None, held: int = 0, hung_up: int = 2, failed: int = 0) -> Wave:
    records = [Record(LoadRequest(number, 0.0, 1, 8)) for number in range(hung_up + failed)]
    for number, record in enumerate(records):
        record.hang_up(1.0) if number < hung_up else record.fail(1.0, "http_500")
    return Wave(records, back_s, held)


def test_the_slowest_wave_counts():
    result = score([wave(back_s=0.1), wave(back_s=0.7), wave(back_s=0.2)], 6)
    assert (result["blocks_back_s_max"], result["leaked_requests"], result["hung_up"]) == (0.7, 0, 6)


def test_blocks_that_stayed_away_once_have_no_maximum():
    result = score([wave(back_s=None, held=3), wave(back_s=0.1)], 4)
    assert result["blocks_back_s_max"] is None
    assert [one["held"] for one in result["waves"]] == [3, 0]


def test_what_the_last_wave_left_is_leaked():
    result = score([wave(back_s=0.1), wave(back_s=None, held=2, failed=1)], 6)
    assert (result["leaked_requests"], result["failed"], result["not_sent"]) == (2, 1, 1)
    assert result["errors_by_kind"] == {"http_500": 1}


@pytest.mark.parametrize("flags", [["--clients", "0"], ["--wave", "0"], ["--output-tokens", "1"]])
def test_impossible_settings_are_refused(flags):
    with pytest.raises(InvalidArgument):
        hangup.check(arguments(*flags))
