"""The rule of placement: filters, then scorers, one weighted sum, then a picker. Pure: the same question and random
state give the same answer. The caller books the answer before it awaits anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

import numpy as np

from shoal.router.contract import Decision, Placement, Rejection, RouteRequest, Term, Wait
from shoal.router.filters import Filter
from shoal.router.pickers import Picker
from shoal.router.scorers import Scorer
from shoal.router.snapshot import Bools, Floats, Ints, Question
from shoal.router.view import ClusterView

EXPLAINED = 8  # candidates whose terms a placement carries: the chosen one and the cheapest others


@dataclass(frozen=True, slots=True)
class Policy:
    """`weights` has one entry per scorer; a scorer of weight 0 is not asked."""

    name: str
    filters: tuple[Filter, ...]
    scorers: Mapping[str, Scorer]
    weights: Mapping[str, float]
    picker: Picker


def place(request: RouteRequest, view: ClusterView, policy: Policy, now_s: float, rng: Random) -> Decision:
    question = view.question(request, now_s)
    fitting = _fitting(question, policy.filters)
    if isinstance(fitting, Wait | Rejection):
        return fitting
    rows: Ints = np.flatnonzero(fitting)
    costs = _costs(question, policy, rows)
    totals = _totals(costs, policy.weights, len(rows))
    chosen = policy.picker(totals, rng)
    return Placement(
        instance=question.members.infos[rows[chosen]].id,
        cached_tokens=int(question.cached_tokens[rows[chosen]]),
        terms=_terms(question, rows, costs, policy.weights, _shown(totals, chosen)),
    )


def _fitting(question: Question, filters: tuple[Filter, ...]) -> Bools | Wait | Rejection:
    left: Bools = np.ones(len(question.members), dtype=np.bool_)
    if not len(left):
        return Wait("no instance has joined")
    for step in filters:
        left = step.keep(question, left)
        if not left.any():
            return Rejection(step.why(question)) if step.permanent else Wait(step.why(question))
    return left


def _costs(question: Question, policy: Policy, rows: Ints) -> dict[str, Floats]:
    asked = [name for name in policy.scorers if policy.weights[name]]
    return {name: policy.scorers[name](question)[rows] for name in asked}


def _totals(costs: Mapping[str, Floats], weights: Mapping[str, float], count: int) -> Floats:
    totals: Floats = np.zeros(count)
    for name, cost in costs.items():
        totals += weights[name] * cost
    return totals


def _shown(totals: Floats, chosen: int) -> list[int]:
    """The chosen one first, then the cheapest others."""
    if len(totals) <= EXPLAINED:
        cheapest = np.argsort(totals, kind="stable").tolist()
    else:
        some = np.argpartition(totals, EXPLAINED)[:EXPLAINED]
        cheapest = some[np.argsort(totals[some], kind="stable")].tolist()
    return [chosen, *(i for i in cheapest if i != chosen)][:EXPLAINED]


def _terms(
    question: Question, rows: Ints, costs: Mapping[str, Floats], weights: Mapping[str, float], shown: list[int]
) -> dict[str, tuple[Term, ...]]:
    def terms(i: int) -> tuple[Term, ...]:
        return tuple([Term(name, float(cost[i]), weights[name]) for name, cost in costs.items()])

    return {question.members.infos[rows[i]].id: terms(i) for i in shown}


__all__ = ["EXPLAINED", "Policy", "place"]
