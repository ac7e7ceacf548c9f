"""`shoal key`: a new API key, and the line of the configuration that knows it by its digest."""

from __future__ import annotations

import argparse
import secrets

from shoal.proto.security import digest_of

KEY_BYTES = 32


def key(arguments: argparse.Namespace) -> int:
    made = f"sk-shoal-{secrets.token_urlsafe(KEY_BYTES)}"
    print(f"for {arguments.owner}, shown once:  {made}")
    print(f"under `keys`, or in keys_file:      {digest_of(made)}: {arguments.owner}")
    return 0


__all__ = ["key"]
