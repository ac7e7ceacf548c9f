"""What a registry promises, in memory and on a real redis-server: typed reads, one winner, bounded waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest
import redis as redis_client

from shoal.cluster.registry import MAX_VALUE_BYTES, MemoryRegistry, Registry, open_registry, read, write
from shoal.cluster.registry_redis import RedisRegistry
from shoal.proto.errors import BadMessage, Unavailable
from tests.tools.servers import RedisServer


class Wish(msgspec.Struct, frozen=True):
    instances: int


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as one:
        yield one


@pytest.fixture
def plain(server: RedisServer) -> Iterator[redis_client.Redis]:
    """What anybody with a client could do to the server."""
    with redis_client.Redis(port=server.port, socket_timeout=5) as client:
        client.flushall()
        yield client


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.servers)])
async def registry(request: pytest.FixtureRequest) -> AsyncIterator[Registry]:
    if request.param == "memory":
        one: Registry = MemoryRegistry()
    else:
        request.getfixturevalue("plain")
        one = RedisRegistry(request.getfixturevalue("server").url, prefix="shoal:t:")
    yield one
    await one.close()


async def test_what_was_written_is_read_back_as_its_type(registry: Registry):
    assert await read(registry, "wish", Wish) is None
    await write(registry, "wish", Wish(3))
    assert await read(registry, "wish", Wish) == Wish(3)


async def test_of_many_writers_who_expect_the_same_exactly_one_wins(registry: Registry):
    won = await asyncio.gather(*(registry.compare_and_set("owner", None, b"%d" % n) for n in range(8)))
    assert sum(won) == 1
    holder = await registry.get("owner")
    assert holder == b"%d" % won.index(True)
    assert not await registry.compare_and_set("owner", b"else", b"x")
    assert await registry.compare_and_set("owner", holder, b"y") and await registry.get("owner") == b"y"


async def test_an_empty_value_is_not_an_absent_one(registry: Registry):
    await registry.put("k", b"")
    assert await registry.get("k") == b""
    assert not await registry.compare_and_set("k", None, b"x")
    assert await registry.compare_and_set("k", b"", b"x")


@pytest.mark.parametrize("garbage", [b"\xff\xfe", b"", b"\x81\xa1x\x01", b"\x91" * 5000])
async def test_garbage_under_a_key_is_a_typed_error(registry: Registry, garbage: bytes):
    await registry.put("wish", garbage)
    with pytest.raises(BadMessage):
        await read(registry, "wish", Wish)


async def test_a_value_over_the_limit_is_refused(registry: Registry):
    with pytest.raises(BadMessage, match="at most"):
        await registry.put("k", b"x" * (MAX_VALUE_BYTES + 1))


@pytest.mark.servers
async def test_a_key_of_another_type_is_garbage_and_other_prefixes_are_not_seen(
    server: RedisServer, plain: redis_client.Redis
):
    plain.lpush("shoal:t:wish", "a")
    plain.set("wish", "somebody else's")
    one = open_registry(server.url, "t")
    with pytest.raises(BadMessage, match="not a string"):
        await one.get("wish")
    await one.put("mine", b"1")
    assert set(plain.keys()) == {b"shoal:t:wish", b"wish", b"shoal:t:mine"}
    await one.close()


@pytest.mark.servers
async def test_a_frozen_server_is_away_and_is_used_again_when_it_comes_back(server: RedisServer):
    one = RedisRegistry(server.url, prefix="shoal:t:", timeout_s=0.2)
    await one.put("k", b"1")
    server.freeze()
    try:
        with pytest.raises(Unavailable):
            await one.get("k")
    finally:
        server.thaw()
    assert await one.get("k") == b"1"
    await one.close()


async def test_nobody_there_is_away():
    one = RedisRegistry("redis://127.0.0.1:9/0", prefix="shoal:t:", timeout_s=0.5)
    with pytest.raises(Unavailable):
        await one.get("k")
    await one.close()
