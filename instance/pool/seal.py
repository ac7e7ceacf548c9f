"""The checksum of a block: BLAKE3 under the cluster's key, over its bytes and over who it is.

A block read under another key, cut short or changed anywhere does not match; nor does one that was written by somebody
without the cluster's secret. The generation stands beside it, not in it, so that a block that moves keeps its seal.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Iterable
from typing import Any

from blake3 import blake3

from shoal.instance.pool.key import KEY_BYTES

SEAL_BYTES = 32
HEADER = struct.Struct(f"<{KEY_BYTES}s{SEAL_BYTES}sQQ")


class Sealer:
    def __init__(self, secret: str) -> None:
        self._key = blake3(secret.encode(), derive_key_context="shoal pool block seal v1").digest()

    def seal(self, key: bytes, pieces: Iterable[Any]) -> bytes:
        """`pieces`: buffers that make up the block, in order. Releases the GIL while it hashes."""
        hasher, length = blake3(key=self._key), 0
        for piece in pieces:
            hasher.update(piece)
            length += piece.nbytes
        return hasher.update(key + length.to_bytes(8, "little")).digest()

    def fits(self, header: Header, key: bytes, generation: int, pieces: Iterable[Any]) -> bool:
        """Are these bytes the block `key`, as it was published under that generation?"""
        named = header.key == key and header.generation == generation
        return named and hmac.compare_digest(header.seal, self.seal(key, pieces))


class Header:
    """What stands beside each slot. All zero: nothing is published there."""

    __slots__ = ("generation", "key", "length", "seal")

    def __init__(self, key: bytes, seal: bytes, generation: int, length: int) -> None:
        self.key, self.seal, self.generation, self.length = key, seal, generation, length

    def pack(self) -> bytes:
        return HEADER.pack(self.key, self.seal, self.generation, self.length)

    @classmethod
    def unpack(cls, data: Any) -> Header:
        return cls(*HEADER.unpack(data))


__all__ = ["HEADER", "SEAL_BYTES", "Header", "Sealer"]
