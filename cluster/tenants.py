"""API keys to tenants, and the salt that keeps one tenant's KV blocks from every other (promise P4)."""

from __future__ import annotations

import hashlib
import hmac
import logging
from pathlib import Path

import yaml

from shoal.proto.errors import Unauthenticated
from shoal.proto.security import as_digests, owner_of

ANYBODY = "default"
log = logging.getLogger(__name__)


class Tenants:
    """Owns the keys, as digests. `keys`: key or digest -> tenant; None: nobody needs one, and all are 'default'. A
    tenant may have several: the old key goes on working while its clients move to the new one.
    """

    def __init__(self, keys: dict[str, str] | None, secret: str) -> None:
        self._keys = None if keys is None else as_digests(keys)
        self._secret = secret.encode()

    def replace(self, keys: dict[str, str]) -> None:
        """From now on these and no others."""
        self._keys = as_digests(keys)

    def authenticate(self, authorization: str | None) -> str:
        """The value of an Authorization header to its tenant. Raises Unauthenticated."""
        if self._keys is None:
            return ANYBODY
        scheme, _, key = (authorization or "").partition(" ")
        tenant = owner_of(key.strip(), self._keys)
        if scheme.lower() != "bearer" or tenant is None:
            raise Unauthenticated("authorization: must be 'Bearer KEY' with a key of this cluster")
        return tenant

    def salt(self, tenant: str, model: str) -> str:
        """HMAC(secret, tenant, model): goes into the hash of every first block."""
        text = "\0".join(("cache-salt", tenant, model)).encode()
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()


class KeyFile:
    """Keys that may change while the cluster runs: `key: tenant` lines of YAML. Laid over those of the configuration.

    What cannot be read, or is no such map, leaves the keys as they were and is logged.
    """

    def __init__(self, path: Path, others: dict[str, str]) -> None:
        self._path, self._others = path, others
        self._seen: tuple[int, int] | None = None

    def news(self) -> dict[str, str] | None:
        """All keys, if the file has changed since it was last asked for; never raises."""
        try:
            stat = self._path.stat()
            if self._seen == (stat.st_mtime_ns, stat.st_ino):
                return None
            self._seen = (stat.st_mtime_ns, stat.st_ino)
            return self._others | as_digests(_checked(yaml.safe_load(self._path.read_text()) or {}))
        except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError) as exc:
            log.error("keys_file %s: the keys stay as they were: %s", self._path, type(exc).__name__)
            return None


def _checked(tree: object) -> dict[str, str]:
    if not isinstance(tree, dict) or not all(isinstance(one, str) for pair in tree.items() for one in pair):
        raise ValueError("must be a map of key to tenant")
    return tree


__all__ = ["ANYBODY", "KeyFile", "Tenants"]
