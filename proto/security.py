"""What of the configuration keeps strangers out: API keys as digests, secrets for each purpose, certificates, and the
limits of tenants.

A key is a long random text, so one SHA-256 of it is enough; the key itself is nowhere once the configuration was read.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from shoal.proto.section import PositiveFloat, PositiveInt, Section

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# inner: between our processes. admin: acts of people. salt: of tenants' blocks. ray: Ray's own token.
Purpose = Literal["inner", "admin", "salt", "ray"]
EVERYBODY = "*"


def digest_of(key: str) -> str:
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def as_digests(keys: dict[str, str]) -> dict[str, str]:
    """Plain keys become digests; what is a digest stays one."""
    return {key if DIGEST.fullmatch(key) else digest_of(key): owner for key, owner in keys.items()}


def owner_of(given: str, digests: dict[str, str]) -> str | None:
    """Whose key it is. All are compared, each in constant time: how long it takes tells nothing."""
    digest, found = digest_of(given), None
    for known, owner in digests.items():
        if hmac.compare_digest(known, digest):
            found = owner
    return found


def derive(secret: str, purpose: Purpose) -> str:
    """Whoever holds one of them learns neither the others nor the secret."""
    return hmac.new(secret.encode(), f"shoal token: {purpose}".encode(), hashlib.sha256).hexdigest()


class TlsConfig(Section):
    """PEM files, the same paths on every machine; read again when they change. `shoal certs` makes a set for trials."""

    edge_cert: Path | None = Field(None, description="of the HTTP and gRPC APIs, with its chain; None: plain text")
    edge_key: Path | None = Field(None, description="its private key")
    inner_cert: Path | None = Field(
        None, description="between our processes, both ways, for the name 'shoal-inner'; None: plain text"
    )
    inner_key: Path | None = Field(None, description="its private key")
    inner_ca: Path | None = Field(None, description="the authority of `inner_cert` and of nothing else")

    @model_validator(mode="after")
    def _whole(self) -> TlsConfig:
        for side in (("edge_cert", "edge_key"), ("inner_cert", "inner_key", "inner_ca")):
            missing = [name for name in side if getattr(self, name) is None]
            if missing and len(missing) < len(side):
                raise ValueError(f"{missing[0]}: must be given with {' and '.join(set(side) - set(missing))}")
        return self


class TenantConfig(Section):
    """What one tenant may use of the whole cluster. Each frontend grants its part."""

    requests_per_s: PositiveFloat | None = Field(None, description="on average; None: any rate")
    burst: PositiveInt = Field(20, description="requests at once above that rate")
    tokens_per_min: PositiveInt | None = Field(None, description="prompt and output tokens, on average; None: any")
    concurrent: PositiveInt | None = Field(None, description="requests under way; None: any number")
    best_priority: int | None = Field(None, description="a request that asks for a smaller value gets this; None: any")
    pool_share: float = Field(1.0, gt=0, le=1, description="of each node's pool memory")


__all__ = [
    "DIGEST",
    "EVERYBODY",
    "Purpose",
    "TenantConfig",
    "TlsConfig",
    "as_digests",
    "derive",
    "digest_of",
    "owner_of",
]
