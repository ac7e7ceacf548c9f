"""Grammars that would keep a compiler busy are refused for what they say; those that people write are not."""

import pytest

from shoal.cluster.grammar_limits import MAX_DEPTH, check_schema, check_text
from shoal.proto.errors import InvalidArgument

MOST = 1000
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 100},
        "emails": {"type": "array", "maxItems": 10, "items": {"type": "string", "pattern": r"^[\w.{}]+@\w{2,60}$"}},
    },
}


def nested(depth):
    schema = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


def test_ordinary_ones_pass():
    check_schema("s", PERSON, MOST)
    check_schema("s", nested(MAX_DEPTH - 2), MOST)
    check_text("r", r"(\d{3}-){2}\d{4}|[a-z{]{1,20}|\{9999\}|(a(b(c)?)*)+", MOST)
    check_text("g", 'root ::= "{" item{0,30} "}"\nitem ::= [^{}]{1,30}', MOST)


@pytest.mark.parametrize(
    "schema",
    [
        {"maxLength": MOST + 1},
        {"minItems": 10**9},
        {"maxItems": 1e309},
        {"maxItems": 100, "items": {"maxItems": 100}},
        {"anyOf": [{"pattern": "a{2000}"}]},
        {"maxItems": 100, "items": {"pattern": "a{20}"}},
        nested(MAX_DEPTH + 1),
        [nested(10_000)],
    ],
)
def test_a_schema_that_unrolls_or_nests_too_far_is_refused(schema):
    with pytest.raises(InvalidArgument, match="s: must be"):
        check_schema("s", schema, MOST)


@pytest.mark.parametrize(
    "text",
    [
        "a{1001}",
        "a{1001,}",
        "a{,1001}",
        "(a{100}){100}",
        "((a{11}b){10}|c){10}",
        "(x{40}){1,30}",
        "(" * 65,
        "(a){99}{99}",
    ],
)
def test_a_text_that_unrolls_or_nests_too_far_is_refused(text):
    with pytest.raises(InvalidArgument, match="r: must be"):
        check_text("r", text, MOST)


def test_groups_side_by_side_are_not_multiplied():
    check_text("r", "(a{100})(b{100})" * 50, MOST)
    with pytest.raises(InvalidArgument):
        check_text("r", "((a{100})(b{100})){11}", MOST)
