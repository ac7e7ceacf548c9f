"""What an HTTP body may ask for, judged before anything is tokenized or compiled. Pure.

Only what costs: how many, how large, how nested, and what may come from no client. All else, and the right words for a
wrong type, are vLLM's.
"""

from __future__ import annotations

from typing import Any

import msgspec

from shoal.cluster.grammar_limits import check_schema, check_text
from shoal.proto.errors import InvalidArgument
from shoal.proto.limits import LimitsConfig

OURS = ("kv_transfer_params", "ec_transfer_params")  # whom blocks go to, and under which handle
GRAMMARS = ("regex", "grammar", "structural_tag")


def check_body(body: bytes, limits: LimitsConfig) -> None:
    """Raises InvalidArgument."""
    try:
        tree = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidArgument("body", limit=f"JSON ({str(exc)[:80]})", given=f"{len(body)} bytes") from None
    if not isinstance(tree, dict):
        raise InvalidArgument("body", limit="a JSON object", given=type(tree).__name__)
    for name in OURS:
        if tree.get(name) is not None:
            raise InvalidArgument(name, limit="absent", given=f"a {type(tree[name]).__name__}")
    _count("n", tree.get("n"), limits.choices)
    _count("best_of", tree.get("best_of"), limits.choices)
    stops = tree.get("stop", tree.get("stop_sequences"))
    _count("stop", len(stops) if isinstance(stops, list) else 0, limits.stops)
    for name in ("response_format", "structured_outputs", "tools", "text"):
        if isinstance(tree.get(name), dict | list):
            _check_grammar(name, tree[name], limits)


def _count(field: str, given: Any, most: int) -> None:
    if isinstance(given, int | float) and not given <= most:
        raise InvalidArgument(field, limit=f"at most {most}", given=given)


def _check_grammar(field: str, tree: Any, limits: LimitsConfig) -> None:
    """A schema may be text, or deep in what the field holds: the whole of it is judged as one."""
    size = len(msgspec.json.encode(tree))
    if size > limits.grammar_bytes:
        raise InvalidArgument(field, limit=f"at most {limits.grammar_bytes} bytes", given=size)
    check_schema(field, tree, limits.grammar_repeats)
    if isinstance(tree, dict):
        for name in GRAMMARS:
            if isinstance(tree.get(name), str):
                check_text(name, tree[name], limits.grammar_repeats)
        if isinstance(tree.get("json"), str):
            check_schema_text("json", tree["json"], limits.grammar_repeats)


def check_schema_text(field: str, text: str, most_repeats: int) -> None:
    try:
        schema = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidArgument(field, limit=f"JSON ({str(exc)[:80]})", given=text[:40]) from None
    if not isinstance(schema, dict):
        raise InvalidArgument(field, limit="a JSON object", given=text[:40])
    check_schema(field, schema, most_repeats)


__all__ = ["check_body", "check_schema_text"]
