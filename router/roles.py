"""Disaggregated prefill and decode: which decode instance a request shall go to after its first token, and how many
instances shall decode. Pure.

A request is split only where it is placed on a *prefill* instance: the role filter (`filters`) sends prompts with
little left to compute to decode instances instead, where they are prefilled and stay. The hand-over itself is a live
migration that is planned at admission (docs/pool.md).

How many decode: they are packed up to the TPOT goal, and up to `FULL` of their KV memory; the rest is prefill capacity.
Of a decode step only what exceeds a lone one's time grows with the load, so with n instances at s ms it is

  n' = ceil(n x max((s - lone) / (goal - lone), used share of KV / FULL)),  at least 1, and at least 1 for prefill

Fewer than now only if as many would do at `EASY` of the goal: else the one that is spared would be missed at once.
A change must be wanted for `patience_s` without a break, goes one instance at a time, and is followed by a rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from shoal.proto.config import DisaggregationConfig
from shoal.router.contract import Role, RouteRequest
from shoal.router.fleet import Host
from shoal.router.snapshot import Snapshot

FULL = 0.85
EASY = 0.8
ROUNDING = 1e-9


@dataclass(slots=True)
class Pairs:
    """Sole owner of the hand-overs of one frontend that are planned and have not happened: request -> (decode
    instance, prompt tokens). Counted with what instances report, so that a burst is spread."""

    planned: dict[str, tuple[str, int]] = field(default_factory=dict)

    def choose(self, request: RouteRequest, snapshot: Snapshot, source: str) -> str | None:
        """Least requests, then most room. None: `source` is to go on with it, or nobody has room."""
        infos = snapshot.members.infos
        if not any(info.id == source and info.role is Role.PREFILL for info in infos):
            return None
        best: tuple[float, float, str] | None = None
        for row in np.flatnonzero(snapshot.placeable & snapshot.members.decodes):
            info = infos[row]
            coming = [tokens for target, tokens in self.planned.values() if target == info.id]
            room_tokens = snapshot.free_blocks[row] * info.block_size - sum(coming) - request.context_tokens
            if room_tokens > 0:
                rank = (snapshot.requests[row] + len(coming), -room_tokens, info.id)
                best = rank if best is None else min(best, rank)
        if best is None:
            return None
        self.planned[request.request_id] = best[2], request.context_tokens
        return best[2]

    def over(self, request_id: str) -> None:
        """It was handed over, ended, or goes on where it is."""
        self.planned.pop(request_id, None)


@dataclass(frozen=True, slots=True)
class RoleState:
    """What the rule remembers: since when it has wanted more decode instances (or fewer), and its last change."""

    wanted: int = 0
    since_s: float = 0.0
    changed_s: float = float("-inf")


@dataclass(frozen=True, slots=True)
class RoleChange:
    instance: str
    role: Role


def decodes_wanted(decoders: Sequence[Host], hosts: int, lone_step_s: float, tpot_s: float) -> int:
    """Of `hosts` instances with a role of their own, `decoders` decode now."""
    if not decoders:
        return 1
    step_s = sum(max(host.step_s, lone_step_s) if host.running else lone_step_s for host in decoders) / len(decoders)
    used = 1 - sum(host.free_blocks for host in decoders) / sum(host.total_blocks for host in decoders)
    needed = len(decoders) * max((step_s - lone_step_s) / (tpot_s - lone_step_s), used / FULL) - ROUNDING
    wanted = max(math.ceil(needed), min(math.ceil(needed / EASY), len(decoders)))
    return min(max(wanted, 1), max(hosts - 1, 1))


def change_role(
    state: RoleState,
    hosts: Sequence[Host],
    now_s: float,
    lone_step_s: float,
    rules: DisaggregationConfig,
) -> tuple[RoleState, RoleChange | None]:
    """Mixed and draining hosts are left alone. The one that changes has the least to lose by it."""
    own = [host for host in hosts if host.placeable and not host.draining and host.role is not Role.MIXED]
    decoders = [host for host in own if host.role is Role.DECODE]
    prefillers = [host for host in own if host.role is Role.PREFILL]
    if len(own) < 2:
        return state, None
    wanted = decodes_wanted(decoders, len(own), lone_step_s, rules.tpot_steps * lone_step_s) - len(decoders)
    direction = (wanted > 0) - (wanted < 0)
    if direction != state.wanted:
        return RoleState(direction, now_s, state.changed_s), None
    rests = now_s - state.changed_s < rules.cooldown_s
    if not direction or rests or now_s - state.since_s < rules.patience_s:
        return state, None
    losers = prefillers if direction > 0 else decoders
    if len(losers) < 2:
        return state, None
    one = min(losers, key=lambda host: (_tokens(host), host.id))
    return RoleState(changed_s=now_s), RoleChange(one.id, Role.DECODE if direction > 0 else Role.PREFILL)


def _tokens(host: Host) -> int:
    """Of prompts that are still to be computed, and of contexts that would have to be moved away."""
    return sum(job.uncomputed_tokens or job.computed_tokens for job in host.jobs)


__all__ = ["FULL", "Pairs", "RoleChange", "RoleState", "change_role", "decodes_wanted"]
