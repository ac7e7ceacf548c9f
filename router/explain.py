"""A placement in rows for people: why there, and what the cheapest others would have cost."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.router.contract import Placement


@dataclass(frozen=True, slots=True)
class Row:
    """One scorer's part in one candidate's cost. `total` is the candidate's whole cost; less is better."""

    candidate: str
    chosen: bool
    scorer: str
    raw: float
    weight: float
    total: float


def explain(placement: Placement) -> list[Row]:
    """The chosen candidate first, then as the placement orders them."""
    rows = []
    for candidate, terms in placement.terms.items():
        total = sum(term.raw * term.weight for term in terms)
        chosen = candidate == placement.instance
        rows += [Row(candidate, chosen, term.scorer, term.raw, term.weight, total) for term in terms]
    return sorted(rows, key=lambda row: not row.chosen)


def as_text(rows: list[Row]) -> str:
    head = f"  {'candidate':<20} {'scorer':<18} {'raw':>12} {'weight':>8} {'total':>12}"
    body = [
        f"{'*' if r.chosen else ' '} {r.candidate:<20} {r.scorer:<18} {r.raw:>12.6g} {r.weight:>8.4g} {r.total:>12.6g}"
        for r in rows
    ]
    return "\n".join([head, *body])


__all__ = ["Row", "as_text", "explain"]
