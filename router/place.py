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
from shoal.router.scorers import Scorer
from shoal.router.snapshot import Bools, Floats, Question
from shoal.router.terms import Terms
from shoal.router.view import ClusterView


@dataclass(frozen=True)
class Policy:
    """`weights` has one entry per scorer; a scorer of weight 0 is not asked."""

    name: str
    filters: tuple[Filter, ...]
    scorers: Mapping[str, Scorer]
    weights: Mapping[str, float]
    picker: Picker

    @cached_property
    def asked(self) -> list[tuple[str, Scorer, float]]:
        return [(name, scorer, self.weights[name]) for name, scorer in self.scorers.items() if self.weights[name]]


def place(request: RouteRequest, view: ClusterView, policy: Policy, now_s: float, rng: Random) -> Decision:
    """Scorers see only those who may serve the request."""
    asked = view.question(request, now_s)
    fitting = _fitting(asked, policy.filters)
    count = np.count_nonzero(fitting)
    if not count:
        return _refusal(asked, policy.filters)
    question = asked if count == len(fitting) else asked.only(np.flatnonzero(fitting))
    costs = {name: scorer(question) for name, scorer, _ in policy.asked}
    totals = _totals(costs, policy.weights, count)
    chosen = policy.picker(totals, rng)
    infos = question.members.infos
    terms = Terms(infos, costs, policy.weights, totals, chosen)
    return Placement(infos[chosen].id, int(question.cached_tokens[chosen]), terms)


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


__all__ = ["Policy", "place"]
