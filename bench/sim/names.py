"""Names of a simulated request's KV blocks, from a trace's prefix ids. An id names all tokens up to its end."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.proto.errors import InvalidArgument


def names_of(ids: Sequence[int], id_tokens: int, block_size: int, tokens: int) -> tuple[bytes, ...]:
    """One per full block of the first `tokens` tokens, as far as there are ids: a block gets the id that ends with it,
    or a part of the id that covers it. Raises InvalidArgument where neither size divides the other."""
    if not ids:
        return ()
    full = min(tokens, len(ids) * id_tokens) // block_size
    if block_size % id_tokens == 0:
        step = block_size // id_tokens
        return tuple([ids[block * step + step - 1].to_bytes(8, "big") for block in range(full)])
    if id_tokens % block_size == 0:
        parts = id_tokens // block_size
        return tuple([b"%d/%d" % (ids[block // parts], block % parts) for block in range(full)])
    raise InvalidArgument(
        "block_size", limit=f"a multiple or a part of the trace's {id_tokens} tokens", given=block_size
    )


__all__ = ["names_of"]
