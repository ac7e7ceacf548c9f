"""Flags of `shoal up`, made from the configuration tree: dotted where nested, dashes for underscores."""

from __future__ import annotations

import argparse
import types
import typing
from collections.abc import Iterator
from typing import Any

from pydantic.fields import FieldInfo

from shoal.proto.config import ClusterConfig
from shoal.proto.errors import StartFailed
from shoal.proto.section import Section

PREFIX = "config:"


def keys(section: type[Section] = ClusterConfig, path: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every leaf of the tree: dotted key and field."""
    for name, field in section.model_fields.items():
        dotted = f"{path}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from keys(field.annotation, f"{dotted}.")
        else:
            yield dotted, field


def _origin(field: FieldInfo) -> Any:
    return typing.get_origin(field.annotation) or field.annotation


def _words(field: FieldInfo) -> str:
    known = "" if field.is_required() or field.default_factory else f"default {field.default!r}"
    return "; ".join(part for part in (field.description or "", known) if part).replace("%", "%%")


def add_flags(parser: argparse.ArgumentParser) -> None:
    for dotted, field in keys():
        kind = _origin(field)
        flag = "--" + dotted.replace("_", "-")
        options: dict[str, Any] = {"dest": PREFIX + dotted, "default": None, "help": _words(field)}
        if kind is dict:
            parser.add_argument(flag, action="append", metavar="NAME=VALUE", **options)
        elif kind is tuple:
            parser.add_argument(flag, action="append", metavar="VALUE", **options)
        elif kind is typing.Literal:
            parser.add_argument(flag, metavar="|".join(typing.get_args(field.annotation)), **options)
        else:
            parser.add_argument(flag, metavar=dotted.rsplit(".", 1)[-1].upper(), **options)


def _pairs(dotted: str, given: list[str]) -> dict[str, str]:
    pairs = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or not name:
            raise StartFailed(f"{dotted}: must be NAME=VALUE, given {one!r}")
        pairs[name] = value
    return pairs


def _may_be_none(field: FieldInfo) -> bool:
    return _origin(field) in (typing.Union, types.UnionType) and type(None) in typing.get_args(field.annotation)


def overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """Only what was given. Values stay text: the configuration's own types judge them."""
    given: dict[str, Any] = {}
    for dotted, field in keys():
        value = getattr(arguments, PREFIX + dotted)
        if value is None:
            continue
        if _origin(field) is dict:
            value = _pairs(dotted, value)
        elif _may_be_none(field) and value.lower() in ("none", "null"):
            value = None
        given[dotted] = value
    return given


__all__ = ["add_flags", "keys", "overrides"]
