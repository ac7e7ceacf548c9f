"""What costs too much, or may come from no client, is refused by its name; the rest is vLLM's to judge."""

import json

import msgspec
import pytest

from shoal.cluster.body_checks import check_body
from shoal.proto.errors import InvalidArgument
from shoal.proto.limits import LimitsConfig

LIMITS = LimitsConfig(choices=4, stops=2, grammar_bytes=1000, grammar_repeats=100)
SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 100}}}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"n": 4, "stop": ["a", "b"]},
        {"n": None, "stop": None, "kv_transfer_params": None},
        {"n": "many", "stop": "a", "tools": "x", "response_format": 3},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}]},
        {"structured_outputs": {"json": json.dumps(SCHEMA)}},
        {"structured_outputs": {"regex": "a{100}"}},
    ],
)
def test_what_is_no_matter_of_limits_passes(body):
    check_body(json.dumps(body).encode(), LIMITS)


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("n", {"n": 5}),
        ("n", {"n": 1e300}),
        ("best_of", {"best_of": 10**30}),
        ("stop", {"stop": ["a"] * 1_000_000}),
        ("stop", {"stop_sequences": ["a", "b", "c"]}),
        ("kv_transfer_params", {"kv_transfer_params": {"remote_host": "10.0.0.1", "remote_port": 5557}}),
        ("ec_transfer_params", {"ec_transfer_params": {}}),
        ("response_format", {"response_format": {"json_schema": {"schema": {"enum": ["x" * 1000]}}}}),
        ("response_format", {"response_format": {"json_schema": {"schema": {"maxItems": 101}}}}),
        ("tools", {"tools": [{"function": {"parameters": {"pattern": "(a{11}){11}"}}}]}),
        ("text", {"text": {"format": {"schema": {"maxLength": 101}}}}),
        ("regex", {"structured_outputs": {"regex": "a{101}"}}),
        ("grammar", {"structured_outputs": {"grammar": "root ::= " + "(" * 100}}),
        ("json", {"structured_outputs": {"json": '{"maxItems": 101}'}}),
        ("json", {"structured_outputs": {"json": "[1"}}),
    ],
)
def test_what_costs_too_much_is_named(field, body):
    with pytest.raises(InvalidArgument) as caught:
        check_body(json.dumps(body).encode(), LIMITS)
    assert caught.value.field == field


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b"{", b'{"a": NaN}', b"\xff", b'{"a": "\xff"}', b"[" * 100_000])
def test_what_is_no_object_in_json_is_refused(body):
    with pytest.raises(InvalidArgument, match="body: must be"):
        check_body(body, LIMITS)


def test_a_deep_value_under_any_name_is_refused_or_harmless():
    deep = b'{"messages": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    with pytest.raises(InvalidArgument, match="body"):
        check_body(deep, LIMITS)
    assert len(msgspec.json.encode(msgspec.json.decode(b"[" * 100 + b"]" * 100))) == 200
