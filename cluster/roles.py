"""Which instance has which role, as the controller keeps it: pure. Names that are not in the mapping are mixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shoal.proto.config import DisaggregationConfig
from shoal.proto.errors import InvalidArgument, NotFound
from shoal.router.contract import Role

NAMES = tuple(role.value for role in Role)


def first_roles(wanted: Sequence[str], rules: DisaggregationConfig) -> dict[str, str]:
    """Of a cluster that starts."""
    return dict(zip(wanted, ["prefill"] * rules.prefill + ["decode"] * rules.decode, strict=False))


def assign(roles: Mapping[str, str], changes: Mapping[str, str], wanted: Sequence[str]) -> dict[str, str]:
    """Raises NotFound or InvalidArgument: somebody must prefill and somebody decode."""
    for name, role in changes.items():
        if name not in wanted:
            raise NotFound(f"no instance {name!r}")
        if role not in NAMES:
            raise InvalidArgument(f"role of {name}", limit=" | ".join(NAMES), given=role)
    after = {name: role for name, role in {**roles, **changes}.items() if name in wanted and role != "mixed"}
    have = {after.get(name, "mixed") for name in wanted}
    if have in ({"prefill"}, {"decode"}):
        raise InvalidArgument("roles", limit="at least one that prefills and one that decodes", given=have.pop())
    return after


def inherit(roles: Mapping[str, str], replacement: str, retiring: Sequence[str]) -> dict[str, str]:
    """In a rolling restart the new one does what the one did that it replaces."""
    if not replacement or not retiring or replacement in roles or retiring[0] not in roles:
        return dict(roles)
    return {**roles, replacement: roles[retiring[0]]}


__all__ = ["NAMES", "assign", "first_roles", "inherit"]
