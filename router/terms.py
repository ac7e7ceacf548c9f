"""What a decision was made of, as rows for people. Owns copies of the costs of one decision and makes `Term`s of them
only when somebody looks: almost nobody does, and making them costs as much as deciding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from shoal.router.contract import Term
from shoal.router.snapshot import Floats

EXPLAINED = 8  # candidates shown: the chosen one and the cheapest others


class Terms(Mapping[str, tuple[Term, ...]]):
    """Candidate -> its terms: the chosen one first, then the cheapest others. `infos` and the costs are by row."""

    def __init__(
        self, infos: Any, costs: Mapping[str, Floats], weights: Mapping[str, float], totals: Floats, chosen: int
    ) -> None:
        self._infos, self._weights, self._totals, self._chosen = infos, weights, totals, chosen
        self._costs = {name: cost.copy() for name, cost in costs.items()}

    def __getitem__(self, candidate: str) -> tuple[Term, ...]:
        return self._shown[candidate]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shown)

    def __len__(self) -> int:
        return len(self._shown)

    @cached_property
    def _shown(self) -> dict[str, tuple[Term, ...]]:
        cheapest = np.argsort(self._totals, kind="stable")[:EXPLAINED].tolist()
        rows = [self._chosen, *(row for row in cheapest if row != self._chosen)][:EXPLAINED]
        return {self._infos[row].id: self._terms(row) for row in rows}

    def _terms(self, row: int) -> tuple[Term, ...]:
        return tuple([Term(name, float(cost[row]), self._weights[name]) for name, cost in self._costs.items()])


__all__ = ["EXPLAINED", "Terms"]
