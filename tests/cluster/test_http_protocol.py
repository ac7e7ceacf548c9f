"""Slow and oversized headers, silence and too many connections end a connection, over real sockets; an honest one next
to them is served.
"""

import asyncio
import contextlib
from contextlib import asynccontextmanager

import pytest
import uvicorn

from shoal.cluster.http_protocol import guarded
from shoal.proto.limits import LimitsConfig

ASK = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


async def application(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def serving(idle_s=60, **limits):
    bounds = LimitsConfig(**{"header_bytes": 1000, "header_s": 0.2, **limits})
    config = uvicorn.Config(application, port=0, http=guarded(bounds), lifespan="off", log_level="error")
    config.timeout_keep_alive = idle_s
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield server, server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


async def say(port, *pieces, pause_s=0.0):
    """What is answered until the other side closes, or after a whole answer of 2 bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(pause_s)
        async with asyncio.timeout(10):
            heard = b""
            while not heard.endswith(b"\r\n\r\nok") and (more := await reader.read(1000)):
                heard += more
            return heard
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


async def test_an_honest_request_is_served_also_in_pieces():
    async with serving() as (_, port):
        assert (await say(port, ASK)).endswith(b"ok")
        assert (await say(port, ASK[:10], ASK[10:], pause_s=0.02)).endswith(b"ok")


async def test_headers_that_do_not_end_in_time_are_cut_off_however_busy_they_are():
    async with serving() as (server, port):
        heard = await say(port, ASK[:-4], *([b"\r\na: 1"] * 30), pause_s=0.02)
        assert b"ok" not in heard and (not heard or b"within 0.2 s" in heard)
        while server.server_state.connections:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("piece", [b"x-a: " + b"a" * 3000, b"a: 1\r\n" * 500])
async def test_headers_larger_than_the_limit_are_cut_off_before_they_end(piece):
    async with serving(header_s=60) as (_, port):
        heard = await say(port, ASK[:-2], piece)
        assert not heard or b"at most 1000 bytes" in heard


async def test_who_says_nothing_is_forgotten():
    async with serving(idle_s=0.1) as (_, port):
        assert await say(port) == b""


async def test_connections_over_the_limit_are_closed_and_the_others_go_on():
    async with serving(connections=2) as (_, port):
        kept = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        assert await say(port, ASK) == b""
        reader, writer = kept[0]
        writer.write(ASK)
        assert b"200 OK" in await reader.readuntil(b"ok")
        kept[1][1].transport.abort()
        async with asyncio.timeout(10):
            while not (await say(port, ASK)).endswith(b"ok"):
                await asyncio.sleep(0.01)
        writer.transport.abort()
