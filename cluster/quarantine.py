"""Requests that were present at two crashes are refused for a while, by fingerprint, so that a retry does not cost a
third instance.
"""

from __future__ import annotations

QUARANTINE_S = 600.0
MAX_ENTRIES = 1024


class Quarantine:
    """Owns the list of fingerprints; bounded, the oldest leaves first."""

    def __init__(self) -> None:
        self.until_s: dict[bytes, float] = {}

    def add(self, fingerprint: bytes, now_s: float) -> None:
        self.until_s.pop(fingerprint, None)
        self.until_s[fingerprint] = now_s + QUARANTINE_S
        while len(self.until_s) > MAX_ENTRIES:
            del self.until_s[next(iter(self.until_s))]

    def holds(self, fingerprint: bytes, now_s: float) -> bool:
        until_s = self.until_s.get(fingerprint)
        if until_s is not None and until_s <= now_s:
            del self.until_s[fingerprint]
            return False
        return until_s is not None


__all__ = ["MAX_ENTRIES", "QUARANTINE_S", "Quarantine"]
