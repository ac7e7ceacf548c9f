"""Ours against the best named rival, workload by workload: who wins by a tenth, and where we lose. Pure arithmetic over
the cells of `bench policies`.

The best rival is another one for each measure: whoever has the highest goodput, and whoever has the least mean
end-to-end time. A gain is ours / theirs - 1 (of times, theirs / ours - 1); a loss is a gain below 0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

OURS = ("least_delay", "learned")
WON = 0.10


def contest(cells: Sequence[dict[str, Any]], ours: str) -> dict[str, Any]:
    """Over all conditions that have both ours and a rival. `worst_loss`: the largest, of either measure; 0: none."""
    rows = [row for rivals in _by_condition(cells) if (row := _row(rivals, ours)) is not None]
    workloads = {row["condition"]["workload"] for row in rows}
    won = [w for w in workloads if all(row["won"] for row in rows if row["condition"]["workload"] == w)]
    losses = [-min(row["goodput_gain"], row["e2e_gain"]) for row in rows]
    return {
        "ours": ours,
        "workloads": len(workloads),
        "workloads_won_by_10pct": len(won),
        "won": sorted(won),
        "worst_loss": max([0.0, *losses]),
        "worst_goodput_loss": max([0.0, *(-row["goodput_gain"] for row in rows)]),
        "rows": rows,
    }


def _by_condition(cells: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    conditions: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for cell in cells:
        conditions[tuple(cell["condition"].values())].append(cell)
    return list(conditions.values())


def _row(cells: Sequence[dict[str, Any]], ours: str) -> dict[str, Any] | None:
    mine = next((cell for cell in cells if cell["policy"] == ours), None)
    rivals = [cell for cell in cells if cell["policy"] not in OURS]
    if mine is None or not rivals:
        return None
    most = max(rivals, key=lambda cell: cell["slo_met_share"]["mean"])
    fastest = min(rivals, key=lambda cell: cell["e2e_ms_mean"]["mean"])
    goodput_gain = mine["slo_met_share"]["mean"] / max(most["slo_met_share"]["mean"], 1e-9) - 1
    e2e_gain = fastest["e2e_ms_mean"]["mean"] / max(mine["e2e_ms_mean"]["mean"], 1e-9) - 1
    return {
        "condition": mine["condition"],
        "goodput_rival": most["policy"],
        "goodput_gain": goodput_gain,
        "e2e_rival": fastest["policy"],
        "e2e_gain": e2e_gain,
        "won": max(goodput_gain, e2e_gain) >= WON,
    }


__all__ = ["OURS", "WON", "contest"]
