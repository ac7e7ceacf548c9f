"""A body is read whole, within its bounds, and what is being read is never more than allowed, however requests end."""

import asyncio

import pytest

from shoal.cluster.http_body import BodyReader, BodyTooLarge, BodyTooSlow, ClientGone, replayed
from shoal.proto.errors import Overloaded
from shoal.proto.limits import LimitsConfig


def sending(*pieces, then=None):
    left = list(pieces)

    async def receive():
        if left:
            return {"type": "http.request", "body": left.pop(0), "more_body": bool(left) or then is not None}
        return await then()

    return receive


async def never():
    await asyncio.Event().wait()


async def gone():
    return {"type": "http.disconnect"}


async def test_it_comes_whole_and_is_given_on_whole():
    body = await BodyReader(LimitsConfig()).read(sending(b"ab", b"", b"c"))
    assert body == b"abc"
    receive = replayed(body, gone)
    assert await receive() == {"type": "http.request", "body": b"abc", "more_body": False}
    assert (await receive())["type"] == "http.disconnect"


@pytest.mark.parametrize(
    ("receive", "error"),
    [
        (sending(b"x" * 60, b"x" * 41), BodyTooLarge),
        (sending(b"x", then=never), BodyTooSlow),
        (sending(b"x", then=gone), ClientGone),
    ],
)
async def test_what_ends_badly_leaves_nothing_behind(receive, error):
    reader = BodyReader(LimitsConfig(body_bytes=100, body_s=0.05))
    with pytest.raises(error):
        await reader.read(receive)
    assert reader.reading_bytes == 0


async def test_all_bodies_together_are_bounded():
    reader = BodyReader(LimitsConfig(body_bytes=100, reading_bytes=150))
    first = asyncio.create_task(reader.read(sending(b"x" * 100, then=never)))
    while reader.reading_bytes < 100:
        await asyncio.sleep(0)
    with pytest.raises(Overloaded) as caught:
        await reader.read(sending(b"x" * 51))
    assert caught.value.retry_after_s
    assert await reader.read(sending(b"x" * 50)) == b"x" * 50
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert reader.reading_bytes == 0
