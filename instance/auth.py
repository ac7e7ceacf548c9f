"""The shared cluster token that every inner call carries, in metadata `shoal-token`."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence

TOKEN_KEY = "shoal-token"


def token_metadata(token: str) -> tuple[tuple[str, str], ...]:
    return ((TOKEN_KEY, token),)


def has_token(metadata: Iterable[Sequence[str | bytes]] | None, token: str) -> bool:
    given = next((value for key, value in metadata or () if key == TOKEN_KEY), "")
    given_bytes = given.encode() if isinstance(given, str) else bytes(given)
    return hmac.compare_digest(given_bytes, token.encode())


__all__ = ["TOKEN_KEY", "has_token", "token_metadata"]
