"""Names of KV blocks by content for engines without vLLM: a BLAKE2 chain over a block's tokens, as vLLM chains SHA-256.

The tenant's salt enters in the first block and is carried on by the chain; the adapter's name enters in every block.
Equal in every process. `HASH_SEED` is what such an engine reports, so that nobody takes its names for vLLM's.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Sequence
from hashlib import blake2b
from typing import Protocol

HASH_SEED = "fake"
_HASH_BYTES = 32


class BlockKeys(Protocol):
    """Names of the blocks of one request, as far as its tokens are known."""

    def first(self, blocks: int) -> Sequence[Hashable]:
        """At least the first `blocks` names, or fewer where the rest has none (and is never cached)."""


class ListedKeys:
    """Names that are known beforehand, e.g. the block ids of a trace; what is generated after them is not cached."""

    __slots__ = ("_names",)

    def __init__(self, names: Sequence[Hashable] = ()) -> None:
        self._names = names

    def first(self, blocks: int) -> Sequence[Hashable]:
        return self._names


class TokenKeys:
    """The chain over a growing token list. It reads `tokens`, which its owner appends to."""

    __slots__ = ("_block_size", "_chain", "_lora", "_salt", "_tokens")

    def __init__(self, tokens: list[int], block_size: int, *, salt: str | None = None, lora: str | None = None) -> None:
        self._tokens = tokens
        self._block_size = block_size
        self._salt = salt
        self._lora = lora
        self._chain: list[bytes] = []

    def first(self, blocks: int) -> Sequence[bytes]:
        chain = self._chain
        full = len(self._tokens) // self._block_size
        while len(chain) < min(blocks, full):
            chain.append(self._next())
        return chain

    def _next(self) -> bytes:
        start = len(self._chain) * self._block_size
        digest = blake2b(self._chain[-1] if self._chain else HASH_SEED.encode(), digest_size=_HASH_BYTES)
        digest.update(repr((self._salt if start == 0 else None, self._lora)).encode())
        digest.update(array("q", self._tokens[start : start + self._block_size]).tobytes())
        return digest.digest()


def block_hashes(
    tokens: Sequence[int], block_size: int, *, salt: str | None = None, lora: str | None = None
) -> list[bytes]:
    """The names of all full blocks of a prompt: what a router needs to know of it."""
    return list(TokenKeys(list(tokens), block_size, salt=salt, lora=lora).first(len(tokens) // block_size))


__all__ = ["HASH_SEED", "BlockKeys", "ListedKeys", "TokenKeys", "block_hashes"]
