"""The fault proxy does what was asked and counts what it did."""

import asyncio
import contextlib
import time

import pytest

from shoal.bench.fault_proxy import FaultProxy, Faults

BODY = bytes(range(256)) * 64


@pytest.fixture
async def proxy():
    """In front of an echo server."""

    async def echo(reader, writer):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(4096):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with FaultProxy("127.0.0.1", server.sockets[0].getsockname()[1], seed=3) as made:
        yield made
    server.close()


async def talk(proxy: FaultProxy, body: bytes = BODY, wait_s: float = 10.0) -> bytes:
    """What comes back until the end, or until nothing comes for `wait_s`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    got = b""
    try:
        writer.write(body)
        writer.write_eof()
        while data := await asyncio.wait_for(reader.read(65536), wait_s):
            got += data
    except TimeoutError:
        pass
    finally:
        writer.close()
    return got


async def test_without_faults_everything_passes(proxy):
    assert await talk(proxy) == BODY
    assert proxy.up.counts.passed_bytes == proxy.down.counts.passed_bytes == len(BODY)
    assert proxy.connections == 1


async def test_delay_holds_each_direction_back(proxy):
    proxy.up.faults = Faults(delay_s=0.1)
    proxy.down.faults = Faults(delay_s=0.1)
    start_s = time.monotonic()
    assert await talk(proxy) == BODY
    assert time.monotonic() - start_s >= 0.2
    assert proxy.up.counts.delayed_chunks and proxy.down.counts.delayed_chunks


async def test_a_rate_is_kept(proxy):
    proxy.down.faults = Faults(rate_bytes_per_s=len(BODY) * 5)
    start_s = time.monotonic()
    assert await talk(proxy) == BODY
    assert time.monotonic() - start_s >= 0.2
    assert proxy.down.counts.throttled_s == pytest.approx(0.2)


async def test_flips_change_single_bits_and_are_counted(proxy):
    proxy.up.faults = Faults(flip_one_in_bytes=1000)
    got = await talk(proxy)
    differing = [(a, b) for a, b in zip(BODY, got, strict=True) if a != b]
    assert len(differing) == proxy.up.counts.flipped_bytes > 0
    assert all((a ^ b).bit_count() == 1 for a, b in differing)


async def test_truncation_ends_in_order_after_the_given_bytes(proxy):
    proxy.down.faults = Faults(truncate_after_bytes=1000)
    assert await talk(proxy) == BODY[:1000]
    assert proxy.down.counts.truncated == 1


async def test_reset_is_seen_as_a_reset(proxy):
    proxy.down.faults = Faults(reset_after_bytes=1000)
    with pytest.raises(ConnectionResetError):
        await talk(proxy)
    assert proxy.down.counts.resets == 1


async def test_a_black_hole_keeps_the_connection_and_gives_nothing(proxy):
    proxy.up.faults = Faults(black_hole=True)
    assert await talk(proxy, wait_s=0.2) == b""
    assert proxy.up.counts.swallowed_bytes == len(BODY)
    proxy.heal()
    assert await talk(proxy) == BODY


async def test_a_duplicate_arrives_twice(proxy):
    proxy.up.faults = Faults(duplicate_one_in_chunks=1)
    assert await talk(proxy, b"once") == b"onceonce"
    assert proxy.up.counts.duplicated_chunks == 1


async def test_all_open_connections_can_be_dropped_and_new_ones_work(proxy):
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"x")
    assert await asyncio.wait_for(reader.read(1), 10) == b"x"
    await proxy.drop_all()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(1), 10)
    writer.close()
    assert await talk(proxy) == BODY


async def test_nobody_behind_it_is_a_reset_not_a_hang():
    async with FaultProxy("127.0.0.1", 1) as proxy:
        with pytest.raises(ConnectionError):
            await talk(proxy)
