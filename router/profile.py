"""The named policies, and how weights from the configuration bend them. With no weights a policy is the heuristic of
its name. Other projects' rules are here as baselines: with their published formulas and default settings, over what our
view knows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from shoal.proto.errors import InvalidArgument
from shoal.router.delay import TERMS, WEIGHTS
from shoal.router.filters import STANDARD, Filter
from shoal.router.memory import HOLDABLE
from shoal.router.pickers import Picker, least, least_of_two
from shoal.router.place import Policy
from shoal.router.policies.llmd import PRECISE_PREFIX
from shoal.router.residual import Residual
from shoal.router.scorers import SCORERS
from shoal.router.weights import RouterWeights, read_weights

Weights = Mapping[str, float]
LEARNED = "learned"
FORESEEING = (*STANDARD, HOLDABLE)


@dataclass(frozen=True, slots=True)
class Profile:
    """Scorers with their weights, and how to choose from the sums. `random` weighs nothing: everything ties."""

    weights: Weights
    picker: Picker = least
    filters: tuple[Filter, ...] = STANDARD


PROFILES: dict[str, Profile] = {
    "prefix_least_work": Profile({"prefix_least_work": 1.0}, filters=FORESEEING),
    "least_work": Profile({"least_work": 1.0}, filters=FORESEEING),
    "least_impact": Profile({"impact_ms": 1.0}, filters=FORESEEING),
    "least_delay": Profile({**dict.fromkeys(TERMS, 1.0), **WEIGHTS}, filters=FORESEEING),
    "round_robin": Profile({"turn": 1.0}),
    "random": Profile({}),
    "power_of_two": Profile({"requests": 1.0}, least_of_two),
    "join_shortest_queue": Profile({"requests": 1.0}),
    "lmetric": Profile({"prefix_least_work": 1.0}),
    "sglang_cache_aware": Profile({"sglang_cache_aware": 1.0}),
    "dynamo_cost": Profile({"dynamo_cost": 1.0}),
    "aibrix_prefix_cache": Profile({"aibrix_prefix_cache": 1.0}),
    "llmd": Profile(PRECISE_PREFIX),
    "llumnix_freeness": Profile({"llumnix_freeness": 1.0}),
    "llumnix_backlog": Profile({"llumnix_backlog": 1.0}),
    "memserve_prompt_tree": Profile({"memserve_prompt_tree": 1.0}),
    "session_sticky": Profile({"session_sticky": 1.0}),
    "autellix": Profile({"autellix": 1.0}),
}


def build_policy(name: str, weights: Weights | None = None) -> Policy:
    """Raises InvalidArgument for a policy or scorer that does not exist, and for a weight that would turn a cost into
    a reward."""
    if name == LEARNED:
        return learned_policy(shipped_weights())
    if name not in PROFILES:
        raise InvalidArgument("policy", limit=f"one of {', '.join(PROFILES)}", given=name)
    for scorer, weight in (weights or {}).items():
        if scorer not in SCORERS:
            raise InvalidArgument("weights", limit=f"among {', '.join(SCORERS)}", given=scorer)
        if not (math.isfinite(weight) and weight >= 0):
            raise InvalidArgument(f"weights.{scorer}", limit="a finite number of at least 0", given=weight)
    profile = PROFILES[name]
    named = {**profile.weights, **(weights or {})}
    return Policy(
        name, profile.filters, SCORERS, {scorer: named.get(scorer, 0.0) for scorer in SCORERS}, profile.picker
    )


def learned_policy(weights: RouterWeights) -> Policy:
    """The price of `least_delay`, bent by learned weights."""
    profile = PROFILES["least_delay"]
    factors = {scorer: profile.weights.get(scorer, 0.0) * weights.factor(scorer) for scorer in SCORERS}
    residual = Residual.of(weights) if any(weights.residual.values()) and weights.band else None
    return Policy(f"learned {weights.version}", profile.filters, SCORERS, factors, profile.picker, residual)


def shipped_weights() -> RouterWeights:
    """Those that come with this version."""
    return read_weights(files("shoal.router").joinpath("weights.json").read_bytes())


__all__ = ["PROFILES", "Profile", "build_policy", "learned_policy", "shipped_weights"]
