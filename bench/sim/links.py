"""How long bytes take between two places, when others are on the way. Pure but for what each link remembers: until when
it is taken.

Every place has one way out and one way in, of the same bandwidth. A transfer takes the one of its source and the other
of its target from when both are free: first come, first served, so transfers delay each other and never share. Pieces
of a few MB (a migration's) make that a fair share.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Links:
    """Owns all links of one cluster. `setup_s` is paid by each transfer before its first byte."""

    bytes_per_s: float
    setup_s: float = 0.0005
    carried_bytes: int = 0
    _out_free_s: dict[str, float] = field(default_factory=dict)
    _in_free_s: dict[str, float] = field(default_factory=dict)

    def transfer(self, source: str, target: str, size_bytes: int, now_s: float) -> float:
        """When its last byte arrives."""
        starts_s = max(now_s, self._out_free_s.get(source, 0.0), self._in_free_s.get(target, 0.0))
        ends_s = starts_s + self.setup_s + size_bytes / self.bytes_per_s
        self._out_free_s[source] = self._in_free_s[target] = ends_s
        self.carried_bytes += size_bytes
        return ends_s

    def queued_s(self, source: str, target: str, now_s: float) -> float:
        """How long a transfer asked for now would wait."""
        return max(now_s, self._out_free_s.get(source, 0.0), self._in_free_s.get(target, 0.0)) - now_s


__all__ = ["Links"]
