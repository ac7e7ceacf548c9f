"""Names of blocks in the pool. Whatever could make the bytes of a block differ is in its name, so that any difference
is a miss.

vLLM's block hash names the tokens, the tenant's salt and the adapter; it knows nothing of weights or layout. A key is
the digest of all that (`Space.root`, with the salt once more) followed by the block hash: two tenants have no name in
common even if a block hash did.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import astuple, dataclass

ROOT_BYTES, HASH_BYTES = 16, 32
KEY_BYTES = ROOT_BYTES + HASH_BYTES


@dataclass(frozen=True, slots=True)
class Space:
    """What an engine's blocks have in common. `weights`: digest of the weight files. `layout`: order and shape of one
    block, e.g. "LBHNC 8x4x32x128". `hash_seed`: root of vLLM's hash chain.
    """

    model: str
    weights: str
    dtype: str
    layout: str
    block_size: int
    tp_rank: int
    tp_size: int
    hash_seed: str

    def root(self, salt: str) -> bytes:
        """The common part of all keys of one tenant; derive it once per request."""
        return hashlib.sha256(repr((astuple(self), salt)).encode()).digest()[:ROOT_BYTES]


def block_keys(root: bytes, block_hashes: Iterable[bytes]) -> list[bytes]:
    """Keys of one length, so that no two (root, hash) pairs meet. Hashes are vLLM's SHA-256 chain values."""
    return [root + block_hash for block_hash in block_hashes]


__all__ = ["HASH_BYTES", "KEY_BYTES", "ROOT_BYTES", "Space", "block_keys"]
