"""Writes the table of configuration keys in operations.md from the models in proto/config.py; `make docs` runs it."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import BaseMetadata
from pydantic.fields import FieldInfo

from shoal.proto.config import ClusterConfig
from shoal.proto.section import Section

PAGE = Path(__file__).with_name("operations.md")
BEGIN, END = "<!-- keys: written by `make docs` -->\n", "<!-- end of keys -->\n"
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def table() -> str:
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    return "\n".join(lines + _rows(ClusterConfig, "")) + "\n"


def page_with_table(page: str) -> str:
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return head + BEGIN + table() + END + tail


def _rows(section: type[Section], prefix: str) -> list[str]:
    rows = []
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            rows += _rows(field.annotation, f"{prefix}{name}.")
        elif (each := _section_of_map(field.annotation)) is not None:
            rows += _rows(each, f"{prefix}{name}.NAME.")
        else:
            cells = (f"`{prefix}{name}`", _kind(field), _default(field), field.description or "")
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return rows


def _section_of_map(kind: Any) -> type[Section] | None:
    values = get_args(kind)[1:]
    return values[0] if values and isinstance(values[0], type) and issubclass(values[0], Section) else None


def _kind(field: FieldInfo) -> str:
    bounds = [text for item in field.metadata if (text := _bound(item))]
    return ", ".join([_type_name(field.annotation), *bounds])


def _bound(item: Any) -> str:
    if isinstance(item, BaseMetadata):
        found = [(sign, getattr(item, name)) for name, sign in SIGNS.items() if hasattr(item, name)]
        return ", ".join(f"{sign} {value:g}" for sign, value in found)
    return ""


def _type_name(kind: Any) -> str:
    arguments = get_args(kind)
    match get_origin(kind):
        case None:
            return {"SecretStr": "secret text", "str": "text"}.get(kind.__name__, kind.__name__)
        case origin if origin is Annotated:
            bounds = [text for item in arguments[1].metadata if (text := _bound(item))]
            return ", ".join([_type_name(arguments[0]), *bounds])
        case origin if origin is Literal:
            return " or ".join(f"`{value}`" for value in arguments)
        case origin if origin in (Union, types.UnionType):
            return " or ".join("none" if part is types.NoneType else _type_name(part) for part in arguments)
        case origin if origin is tuple:
            return "list of text"
        case _:
            return f"map of {_type_name(arguments[0])} to {_type_name(arguments[1])}"


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return "random"
    if field.default is None:
        return "none"
    if field.default in ((), {}):
        return "empty"
    return f"`{field.default}`" if not isinstance(field.default, bool) else f"`{str(field.default).lower()}`"


if __name__ == "__main__":
    PAGE.write_text(page_with_table(PAGE.read_text()))
