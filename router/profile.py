"""The named policies, and how weights from the configuration bend them. With no weights a policy is the heuristic of
its name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from shoal.proto.errors import InvalidArgument
from shoal.router.filters import STANDARD
from shoal.router.pickers import Picker, least, least_of_two
from shoal.router.place import Policy
from shoal.router.scorers import SCORERS

Weights = Mapping[str, float]


def _round_robin(weights: Weights) -> Policy:
    """Whoever was placed on longest ago: fair whatever is filtered out, and a newcomer gets one turn, not a burst to
    catch up."""
    return _policy("round_robin", "turn", least, weights)


def _power_of_two(weights: Weights) -> Policy:
    return _policy("power_of_two", "requests", least_of_two, weights)


def _least_work(weights: Weights) -> Policy:
    return _policy("least_work", "least_work", least, weights)


def _prefix_least_work(weights: Weights) -> Policy:
    return _policy("prefix_least_work", "prefix_least_work", least, weights)


PROFILES: dict[str, Callable[[Weights], Policy]] = {
    "round_robin": _round_robin,
    "power_of_two": _power_of_two,
    "least_work": _least_work,
    "prefix_least_work": _prefix_least_work,
}


def build_policy(name: str, weights: Weights | None = None) -> Policy:
    """Raises InvalidArgument for a policy or scorer that does not exist, and for a weight that would turn a cost into
    a reward."""
    if name not in PROFILES:
        raise InvalidArgument("policy", limit=f"one of {', '.join(PROFILES)}", given=name)
    for scorer, weight in (weights or {}).items():
        if scorer not in SCORERS:
            raise InvalidArgument("weights", limit=f"among {', '.join(SCORERS)}", given=scorer)
        if not (math.isfinite(weight) and weight >= 0):
            raise InvalidArgument(f"weights.{scorer}", limit="a finite number of at least 0", given=weight)
    return PROFILES[name](weights or {})


def _policy(name: str, heuristic: str, picker: Picker, weights: Weights) -> Policy:
    defaults = {scorer: float(scorer == heuristic) for scorer in SCORERS}
    return Policy(name, STANDARD, SCORERS, {**defaults, **weights}, picker)


__all__ = ["PROFILES", "build_policy"]
