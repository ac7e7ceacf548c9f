"""The outbox of a stream keeps order and bounds, and its end is the last thing heard."""

import asyncio

import pytest

from shoal.instance import watcher as watcher_module
from shoal.instance.watcher import Watcher
from shoal.proto.v1 import instance_pb2 as pb


def frame(number: int) -> pb.Down:
    return pb.Down(reply=pb.Reply(call_id=number))


def watcher(overflows: list[Watcher]) -> Watcher:
    return Watcher(1, "f1", True, overflows.append)


async def rest(one: Watcher) -> list[int]:
    heard = []
    while (got := await asyncio.wait_for(one.next(), 10)) is not None:
        heard.append(got.reply.call_id)
    return heard


async def test_frames_come_in_order_and_then_the_end() -> None:
    one = watcher([])
    for number in range(5):
        one.push(frame(number))
    one.end("ABORTED", "enough")
    one.push(frame(5))
    assert await rest(one) == [0, 1, 2, 3, 4]
    assert await rest(one) == []
    assert one.ended == ("ABORTED", "enough")


async def test_a_waiting_reader_is_woken_by_a_frame_and_by_the_end() -> None:
    one = watcher([])
    reading = asyncio.create_task(rest(one))
    for number in range(3):
        await asyncio.sleep(0)
        one.push(frame(number))
    await asyncio.sleep(0)
    one.end("ABORTED", "enough")
    assert await reading == [0, 1, 2]


async def test_the_first_reason_for_an_end_stands() -> None:
    one = watcher([])
    one.end("ABORTED", "first")
    one.end("INTERNAL", "second")
    assert one.ended == ("ABORTED", "first")


async def test_one_frame_too_many_ends_it_once_and_frees_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher_module, "MAX_FRAMES", 3)
    overflows: list[Watcher] = []
    one = watcher(overflows)
    for number in range(3):
        one.push(frame(number))
    assert one.ended is None
    for number in range(10):
        one.push(frame(number))
    assert overflows == [one]
    assert one.ended == ("RESOURCE_EXHAUSTED", "reader is 3 frames behind")
    assert not one.frames
    assert await rest(one) == []


async def test_a_reader_that_keeps_up_may_read_any_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher_module, "MAX_FRAMES", 3)
    one = watcher([])
    for number in range(100):
        one.push(frame(number))
        got = await one.next()
        assert got is not None and got.reply.call_id == number
    assert one.ended is None
