"""A placement can be read by people: every candidate it carries, every scorer, and what they add up to."""

from shoal.router.contract import Placement, Term
from shoal.router.explain import Row, as_text, explain

PLACEMENT = Placement(
    "b",
    terms={
        "a": (Term("least_work", 100, 1.0), Term("kv_use", 0.5, 40.0)),
        "b": (Term("least_work", 90, 1.0), Term("kv_use", 0.0, 40.0)),
    },
)


def test_rows_have_the_chosen_first_and_the_total_of_each_candidate():
    assert explain(PLACEMENT) == [
        Row("b", True, "least_work", 90, 1.0, 90),
        Row("b", True, "kv_use", 0.0, 40.0, 90),
        Row("a", False, "least_work", 100, 1.0, 120),
        Row("a", False, "kv_use", 0.5, 40.0, 120),
    ]


def test_text_has_a_head_and_one_line_per_row_with_the_chosen_marked():
    head, *body = as_text(explain(PLACEMENT)).splitlines()
    assert head.split() == ["candidate", "scorer", "raw", "weight", "total"]
    assert [line.split()[0] for line in body] == ["*", "*", "a", "a"]


def test_placement_without_terms_has_no_rows():
    assert explain(Placement("a")) == []
