"""The terms of a placement are those of the moment of the decision, whenever somebody looks."""

import numpy as np

from shoal.router.contract import InstanceInfo, Role, Term
from shoal.router.terms import EXPLAINED, Terms

INFOS = [InstanceInfo(f"i{n}", Role.MIXED, 16, 100, 1000, 256, 8) for n in range(3 * EXPLAINED)]


def terms_of(costs: list[float], chosen: int) -> Terms:
    values = np.array(costs)
    terms = Terms(INFOS, {"a": values}, {"a": 2.0}, 2.0 * values, chosen)
    values += 100  # the view goes on
    return terms


def test_chosen_one_comes_first_and_then_the_cheapest():
    assert list(terms_of([3, 1, 2], chosen=2)) == ["i2", "i1", "i0"]


def test_costs_are_those_of_the_decision_even_when_the_columns_move_on():
    assert terms_of([3, 1], chosen=1) == {"i1": (Term("a", 1, 2),), "i0": (Term("a", 3, 2),)}


def test_no_more_are_shown_than_the_bound_and_the_chosen_one_always_is():
    terms = terms_of([float(n) for n in range(len(INFOS))], chosen=20)
    assert list(terms) == ["i20", *(f"i{n}" for n in range(EXPLAINED - 1))]
    assert len(terms) == EXPLAINED
