"""What a grammar may cost before any compiler sees it: nesting, and repetitions, which compilers unroll.

A bound of a repetition counts as it is, and multiplied by those around it: `(a{100}){100}` is 10,000. Pure, linear in
the size of what it judges, and without recursion. Whether a grammar is a good one is the compiler's to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from shoal.proto.errors import InvalidArgument

MAX_DEPTH = 64
REPEAT_KEYS = ("maxLength", "minLength", "maxItems", "minItems", "maxProperties", "minProperties")
TOKEN = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|[()]|\{(\d+)?(?:,(\d*))?\}", re.DOTALL)


def check_schema(field: str, schema: Any, most_repeats: int) -> None:
    """`schema`: JSON Schema as parsed JSON. Raises InvalidArgument."""
    level: list[tuple[Any, int]] = [(schema, 1)]
    for _ in range(MAX_DEPTH):
        level = [child for node, around in level for child in _inside(field, node, around, most_repeats)]
        if not level:
            return
    raise InvalidArgument(field, limit=f"nested at most {MAX_DEPTH} deep", given="a deeper one")


def _inside(field: str, node: Any, around: int, most: int) -> Iterator[tuple[Any, int]]:
    if isinstance(node, list):
        yield from ((one, around) for one in node if isinstance(one, dict | list))
    if not isinstance(node, dict):
        return
    bounds = [node[key] for key in REPEAT_KEYS if isinstance(node.get(key), int | float)]
    around = _multiplied(field, around, max(bounds, default=1), most)
    if isinstance(node.get("pattern"), str):
        check_text(field, node["pattern"], most, around=around)
    yield from ((one, around) for one in node.values() if isinstance(one, dict | list))


def check_text(field: str, text: str, most_repeats: int, *, around: int = 1) -> None:
    """Of a regular expression or an EBNF grammar. Raises InvalidArgument.

    A repetition follows the group that it repeats, so what a group holds is multiplied when its bound is read.
    """
    largest = [1]  # of each open group, the outermost first: the largest product inside it
    closed = 1  # of what ended just here
    for match in TOKEN.finditer(text):
        match match[0]:
            case "(":
                largest.append(1)
                if len(largest) > MAX_DEPTH:
                    raise InvalidArgument(field, limit=f"nested at most {MAX_DEPTH} deep", given="a deeper one")
                closed = 1
            case ")":
                closed = largest.pop() if len(largest) > 1 else 1
                largest[-1] = max(largest[-1], closed)
            case repeat if repeat.startswith("{"):
                bound = max(int(match[1] or 0), int(match[2] or 0), 1)
                closed = _multiplied(field, closed, bound, most_repeats // around)
                largest[-1] = max(largest[-1], closed)
            case _:
                closed = 1


def _multiplied(field: str, around: int, bound: float, most: int) -> int:
    if not bound * around <= most:
        raise InvalidArgument(field, limit=f"of at most {most} repetitions, nested ones multiplied", given=bound)
    return max(1, int(bound)) * around


__all__ = ["check_schema", "check_text"]
