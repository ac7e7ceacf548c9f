"""A registry in Redis: it survives the controller and the head. The only file that knows the Redis client.

Keys carry the cluster's prefix, so several clusters may share a server. Each call is bounded in time, and whatever is
wrong with the server is Unavailable; a key of another type than a string is BadMessage. No prompt, token or KV byte is
ever stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar, cast

import redis.asyncio as redis
from redis.exceptions import RedisError, ResponseError

from shoal.cluster.registry import checked
from shoal.proto.errors import BadMessage, Unavailable

T = TypeVar("T")

# One script, so that nobody can write between the comparison and the set. ARGV: is a value expected, that value, the
# new one.
_COMPARE_AND_SET = """
local seen = redis.call('GET', KEYS[1])
if ARGV[1] == '0' then
  if seen then return 0 end
elseif seen ~= ARGV[2] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[3])
return 1
"""


class RedisRegistry:
    """Owns one small connection pool. Made anywhere, used on one event loop."""

    def __init__(self, url: str, *, prefix: str, timeout_s: float = 1.0) -> None:
        self._prefix, self._timeout_s = prefix, timeout_s
        pool = redis.BlockingConnectionPool.from_url(
            url, max_connections=4, timeout=timeout_s, socket_timeout=timeout_s, socket_connect_timeout=timeout_s
        )
        self._client: Any = redis.Redis.from_pool(pool)

    async def get(self, key: str) -> bytes | None:
        return cast("bytes | None", await self._bounded(key, self._client.get(self._prefix + key)))

    async def put(self, key: str, value: bytes) -> None:
        await self._bounded(key, self._client.set(self._prefix + key, checked(key, value)))

    async def compare_and_set(self, key: str, expected: bytes | None, value: bytes) -> bool:
        arguments = ("0" if expected is None else "1", expected or b"", checked(key, value))
        done = await self._bounded(key, self._client.eval(_COMPARE_AND_SET, 1, self._prefix + key, *arguments))
        return bool(done)

    async def close(self) -> None:
        await self._client.aclose()

    async def _bounded(self, key: str, call: Awaitable[T]) -> T:
        try:
            return await asyncio.wait_for(call, self._timeout_s)
        except ResponseError as exc:
            if "WRONGTYPE" in str(exc):
                raise BadMessage(f"registry key {key}: not a string ({exc})") from None
            raise Unavailable(f"registry: {exc}", retry_after_s=self._timeout_s) from None
        except (RedisError, OSError, TimeoutError) as exc:
            raise Unavailable(f"registry: {type(exc).__name__}: {exc}", retry_after_s=self._timeout_s) from None


__all__ = ["RedisRegistry"]
