"""The registry seam: where desired state outlives a controller. Bytes under keys; never on a request's path.

`MemoryRegistry` dies with its process; `shoal.cluster.registry_redis` does not. Values are read through `read`, which
trusts nobody.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from shoal.proto.codec import decode, encode
from shoal.proto.errors import BadMessage

T = TypeVar("T")
MAX_VALUE_BYTES = 1 << 20


class Registry(Protocol):
    """Every call ends within the registry's own timeout: by an answer, Unavailable (away) or BadMessage."""

    async def get(self, key: str) -> bytes | None: ...

    async def put(self, key: str, value: bytes) -> None: ...

    async def compare_and_set(self, key: str, expected: bytes | None, value: bytes) -> bool:
        """Sets and says True only if the key holds `expected`; None stands for no key."""

    async def close(self) -> None: ...


class MemoryRegistry:
    """A registry that lives and dies with its process."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}

    async def get(self, key: str) -> bytes | None:
        return self._values.get(key)

    async def put(self, key: str, value: bytes) -> None:
        self._values[key] = checked(key, value)

    async def compare_and_set(self, key: str, expected: bytes | None, value: bytes) -> bool:
        if self._values.get(key) != expected:
            return False
        self._values[key] = checked(key, value)
        return True

    async def close(self) -> None:
        self._values.clear()


def checked(key: str, value: bytes) -> bytes:
    if len(value) > MAX_VALUE_BYTES:
        raise BadMessage(f"registry key {key}: at most {MAX_VALUE_BYTES} bytes, given {len(value)}")
    return value


async def read(registry: Registry, key: str, kind: type[T]) -> T | None:
    """The typed value under `key`. Raises BadMessage where somebody else wrote there, Unavailable where it is away."""
    raw = await registry.get(key)
    return None if raw is None else decode(kind, checked(key, raw))


async def write(registry: Registry, key: str, value: object) -> None:
    await registry.put(key, encode(value))


def open_registry(url: str, cluster: str) -> Registry:
    """`memory` or `redis://...`, as in the config."""
    if url == "memory":
        return MemoryRegistry()
    from shoal.cluster.registry_redis import RedisRegistry  # noqa: PLC0415 - the client is needed by this kind only

    return RedisRegistry(url, prefix=f"shoal:{cluster}:")


__all__ = ["MAX_VALUE_BYTES", "MemoryRegistry", "Registry", "checked", "open_registry", "read", "write"]
