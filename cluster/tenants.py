"""API keys to tenants, and the salt that keeps one tenant's KV blocks from every other (promise P4)."""

from __future__ import annotations

import hashlib
import hmac

from shoal.proto.errors import Unauthenticated

ANYBODY = "default"


class Tenants:
    """Keys are kept as digests and compared in constant time. Without keys everybody is the tenant 'default'."""

    def __init__(self, keys: dict[str, str], secret: str) -> None:
        self._tenants = [(_digest(key), tenant) for key, tenant in keys.items()]
        self._secret = secret.encode()

    def authenticate(self, authorization: str | None) -> str:
        """The value of an Authorization header to its tenant. Raises Unauthenticated."""
        if not self._tenants:
            return ANYBODY
        scheme, _, key = (authorization or "").partition(" ")
        given = _digest(key.strip())
        found = [tenant for digest, tenant in self._tenants if hmac.compare_digest(digest, given)]
        if scheme.lower() != "bearer" or not found:
            raise Unauthenticated("authorization: must be 'Bearer KEY' with a key of this cluster")
        return found[0]

    def salt(self, tenant: str, model: str) -> str:
        """HMAC(cluster secret, tenant, model): goes into the hash of every first block."""
        text = "\0".join(("cache-salt", tenant, model)).encode()
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


__all__ = ["ANYBODY", "Tenants"]
