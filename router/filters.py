"""Who may serve this request at all. A filter takes the rows that are left and returns those it keeps; it never adds
one.

A *permanent* filter asks about facts that waiting does not change: when it leaves nobody, the request is rejected.
When any other filter leaves nobody, the request waits. Permanent ones come first in a policy, so that they judge all
members, whatever their state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shoal.router.snapshot import Bools, Question

SPARE_SHARE = 0.25  # of an instance's blocks stays free beside offline work
FRESH_S = 0.75  # three idle heartbeats: whoever is silent for longer is not yet fenced, but others are the better bet


@dataclass(frozen=True, slots=True)
class Filter:
    """`why` says in words, for the request at hand, what it means that nobody is left. `holds_up`: it is about room
    that all requests compete for (see Wait)."""

    name: str
    keep: Callable[[Question, Bools], Bools]
    why: Callable[[Question], str]
    permanent: bool = False
    holds_up: bool = False


def _keep_lora(question: Question, left: Bools) -> Bools:
    lora = question.request.lora
    if lora is None:
        return left
    return left & np.array([lora in info.loras for info in question.members.infos], dtype=np.bool_)


def _keep_context(question: Question, left: Bools) -> Bools:
    context_tokens = question.request.context_tokens
    if context_tokens < question.members.least_model_len:
        return left
    return left & (context_tokens < question.members.max_model_len)


def _keep_role(question: Question, left: Bools) -> Bools:
    """Where there are roles: a long prefill goes to a prefill instance, to be handed over; a short one to where it will
    decode. A preference: whoever is left serves anything.
    """
    members = question.members
    if not (members.prefills.any() or members.decodes.any()):
        return left
    short = question.request.context_tokens - question.pool_tokens < question.split_from_tokens
    suits: Bools = np.where(short, ~members.prefills, ~members.decodes)
    suiting = left & suits
    return suiting if suiting.any() else left


def _keep_ready(question: Question, left: Bools) -> Bools:
    return left & question.snapshot.placeable


def _keep_not_excluded(question: Question, left: Bools) -> Bools:
    excluded = question.request.excluded
    if not excluded:
        return left
    return left & np.array([info.id not in excluded for info in question.members.infos], dtype=np.bool_)


def _keep_fresh(question: Question, left: Bools) -> Bools:
    """A preference: where all are stale, staleness says nothing about any of them."""
    fresh = left & (question.snapshot.observed_s >= question.now_s - FRESH_S)
    return fresh if np.count_nonzero(fresh) else left


def _why_context(question: Question) -> str:
    limit = int(question.members.max_model_len.max())
    return f"context_tokens: must be less than {limit}, given {question.request.context_tokens}"


def _keep_spare(question: Question, left: Bools) -> Bools:
    """Work that nobody waits for takes what is left over: memory that others will not need soon, where none waits."""
    if not question.request.offline:
        return left
    snapshot, members = question.snapshot, question.members
    own_blocks = (question.request.context_tokens - question.cached_tokens) / members.block_size
    spare = snapshot.free_blocks - own_blocks - snapshot.prefill_tokens / members.block_size
    return left & (snapshot.waiting == 0) & ((spare >= SPARE_SHARE * members.total_blocks) | (snapshot.requests == 0))


LORA = Filter("lora", _keep_lora, lambda q: f"adapter {q.request.lora!r} is loaded on no instance", permanent=True)
CONTEXT = Filter("context", _keep_context, _why_context, permanent=True)
ROLE = Filter("role", _keep_role, lambda q: "no instance has a role that serves it")
READY = Filter("ready", _keep_ready, lambda q: "every instance that could serve it is fenced or draining")
NOT_EXCLUDED = Filter("not_excluded", _keep_not_excluded, lambda q: "every ready instance is excluded for it")
FRESH = Filter("fresh", _keep_fresh, lambda q: "no report is fresh")
SPARE = Filter("spare", _keep_spare, lambda q: "no instance has capacity left over for offline work")

STANDARD = (CONTEXT, LORA, READY, NOT_EXCLUDED, ROLE, FRESH, SPARE)

__all__ = ["CONTEXT", "FRESH", "FRESH_S", "LORA", "NOT_EXCLUDED", "READY", "ROLE", "SPARE", "STANDARD", "Filter"]
