"""How many files, and so connections, this process and those that it starts may have open."""

from __future__ import annotations

import resource


def allow_most() -> int:
    """As many as the system lets us: a shell's usual 1024 would be a limit of clients. Returns the number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


__all__ = ["allow_most"]
