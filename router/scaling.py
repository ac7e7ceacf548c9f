"""How many instances there should be, from the average freeness of those there are (`load`). Pure; the controller acts.

Below `grow_below_tokens` for `patience_s`: one more. Above `shrink_above_tokens` as long: one less, if those that stay
would not want it back at once (hysteresis: freeness is shared out anew among one host less). After each change there
is a rest of `cooldown_s`. Between the two bounds nothing happens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from shoal.proto.config import ScalingConfig


@dataclass(frozen=True, slots=True)
class ScaleState:
    """What the rule remembers. Times: seconds of the caller's clock; None: not so now, or never."""

    low_since_s: float | None = None
    high_since_s: float | None = None
    changed_s: float = float("-inf")


def desired_count(
    state: ScaleState, freeness_tokens: float, count: int, now_s: float, rules: ScalingConfig
) -> tuple[ScaleState, int]:
    """`count`: instances wanted now, those still starting included."""
    within = min(max(count, rules.min_instances), rules.max_instances)
    if within != count:
        return ScaleState(changed_s=now_s), within
    state = _observe(state, freeness_tokens, count, now_s, rules)
    if now_s - state.changed_s < rules.cooldown_s:
        return state, count
    if _lasted(state.low_since_s, now_s, rules) and count < rules.max_instances:
        return ScaleState(changed_s=now_s), count + 1
    if _lasted(state.high_since_s, now_s, rules) and count > rules.min_instances:
        return ScaleState(changed_s=now_s), count - 1
    return state, count


def _observe(state: ScaleState, freeness: float, count: int, now_s: float, rules: ScalingConfig) -> ScaleState:
    low = freeness < rules.grow_below_tokens
    after_shrink = freeness * (count - 1) / count if count else 0.0
    high = freeness > rules.shrink_above_tokens and after_shrink > rules.grow_below_tokens
    return replace(
        state,
        low_since_s=(now_s if state.low_since_s is None else state.low_since_s) if low else None,
        high_since_s=(now_s if state.high_since_s is None else state.high_since_s) if high else None,
    )


def _lasted(since_s: float | None, now_s: float, rules: ScalingConfig) -> bool:
    return since_s is not None and now_s - since_s >= rules.patience_s


__all__ = ["ScaleState", "desired_count"]
