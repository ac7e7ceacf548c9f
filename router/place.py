"""The rule of placement: filters, then scorers, one weighted sum, then a picker. Pure: the same question and random
state give the same answer. The caller books the answer before it awaits anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from random import Random

import numpy as np

from shoal.router.contract import Decision, Placement, Rejection, RouteRequest, Wait
from shoal.router.filters import Filter
from shoal.router.pickers import Picker
from shoal.router.residual import Residual
from shoal.router.scorers import Scorer
from shoal.router.snapshot import Bools, Floats, Question
from shoal.router.terms import Terms
from shoal.router.view import ClusterView

RESIDUAL, OUT_OF_RANGE = "residual_ms", "a feature is outside what training saw"


@dataclass(frozen=True)
class Policy:
    """`weights` has one entry per scorer; a scorer of weight 0 is not asked. `residual`: learned, on top of their
    sum."""

    name: str
    filters: tuple[Filter, ...]
    scorers: Mapping[str, Scorer]
    weights: Mapping[str, float]
    picker: Picker
    residual: Residual | None = None

    @cached_property
    def asked(self) -> list[tuple[str, Scorer, float]]:
        return [(name, scorer, self.weights[name]) for name, scorer in self.scorers.items() if self.weights[name]]


def place(request: RouteRequest, view: ClusterView, policy: Policy, now_s: float, rng: Random) -> Decision:
    return answer(view.question(request, now_s), policy, rng)


def answer(asked: Question, policy: Policy, rng: Random) -> Decision:
    """Scorers see only those who may serve the request."""
    question = fitting(asked, policy)
    return choose(question, policy, rng) if len(question.members) else _refusal(asked, policy.filters)


def fitting(asked: Question, policy: Policy) -> Question:
    """The same, of those who may serve it."""
    left = _fitting(asked, policy.filters)
    return asked if np.count_nonzero(left) == len(left) else asked.only(np.flatnonzero(left))


def choose(question: Question, policy: Policy, rng: Random) -> Placement:
    costs = {name: scorer(question) for name, scorer, _ in policy.asked}
    weights, rail = policy.weights, ""
    totals = _totals(costs, weights, len(question.members))
    if policy.residual is not None:
        added = policy.residual.ms(question, totals)
        if added is None:
            rail = OUT_OF_RANGE
        else:
            costs, weights, totals = {**costs, RESIDUAL: added}, {**weights, RESIDUAL: 1.0}, totals + added
    chosen = policy.picker(totals, rng)
    infos = question.members.infos
    terms = Terms(infos, costs, weights, totals, chosen)
    return Placement(infos[chosen].id, int(question.cached_tokens[chosen]), terms, policy.name, rail)


def _fitting(question: Question, filters: tuple[Filter, ...]) -> Bools:
    left: Bools = np.ones(len(question.members), dtype=np.bool_)
    for step in filters:
        left = step.keep(question, left)
    return left


def _refusal(question: Question, filters: tuple[Filter, ...]) -> Wait | Rejection:
    """Which filter left nobody."""
    left: Bools = np.ones(len(question.members), dtype=np.bool_)
    if not len(left):
        return Wait("no instance has joined")
    for step in filters:
        left = step.keep(question, left)
        if not left.any():
            break
    if step.permanent:
        return Rejection(step.why(question))
    special = question.request.lora is not None or question.request.excluded  # others may have more to choose from
    return Wait(step.why(question), holds_up=step.holds_up and not special)


def _totals(costs: Mapping[str, Floats], weights: Mapping[str, float], count: int) -> Floats:
    totals: Floats = np.zeros(count)
    for name, cost in costs.items():
        totals += weights[name] * cost
    return totals


__all__ = ["OUT_OF_RANGE", "RESIDUAL", "Policy", "answer", "choose", "fitting", "place"]
