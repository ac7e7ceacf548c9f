"""What an instance says on an Attach stream, in the frontend's words. Raises BadMessage for what makes no sense."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shoal.cluster.journal import FINISH_OUTCOMES
from shoal.proto.errors import BadMessage, ClientFault, ShoalError, Unavailable
from shoal.proto.v1 import instance_pb2 as pb
from shoal.router.block_feed import Change
from shoal.router.contract import InstanceInfo, InstanceLoad, Role

RETRY_AFTER_S = 2.0
_BLOCK_KINDS = {pb.BlockChange.STORED: "stored", pb.BlockChange.REMOVED: "removed", pb.BlockChange.CLEARED: "cleared"}
_ROLES = {role.value: role for role in Role}


class RefusedByInstance(ClientFault):
    """An engine looked at the request and cannot serve it."""


def role_of(name: str) -> Role:
    """An unknown one, of a later version, does both."""
    return _ROLES.get(name, Role.MIXED)


def info_of(welcome: pb.Welcome) -> InstanceInfo:
    sizes = (welcome.block_size, welcome.total_blocks, welcome.max_model_len)
    if welcome.role not in _ROLES or not all(sizes):
        raise BadMessage(f"{welcome.instance_id}: a Welcome with role {welcome.role!r:.40} and sizes {sizes}")
    return InstanceInfo(
        id=welcome.instance_id,
        role=_ROLES[welcome.role],
        block_size=welcome.block_size,
        total_blocks=welcome.total_blocks,
        max_model_len=welcome.max_model_len,
        max_num_batched_tokens=welcome.max_num_batched_tokens,
        max_num_seqs=welcome.max_num_seqs,
        loras=frozenset(welcome.loras),
    )


def load_of(load: pb.Load) -> InstanceLoad:
    return InstanceLoad(
        running=load.running,
        waiting=load.waiting,
        queued_prefill_tokens=load.queued_prefill_tokens,
        uncached_prefill_tokens=load.uncached_prefill_tokens,
        context_tokens=load.context_tokens,
        free_blocks=load.free_blocks,
        step_ms=load.step_ms,
        draining=load.draining,
    )


def changes_of(report: pb.StepReport) -> list[Change]:
    """Its block changes, in order."""
    if unknown := [change.kind for change in report.blocks if change.kind not in _BLOCK_KINDS]:
        raise BadMessage(f"block changes of unknown kinds {unknown[:3]}")
    return [(_BLOCK_KINDS[change.kind], change.hashes) for change in report.blocks]


def check_outputs(outputs: Sequence[Any], report: pb.StepReport) -> None:
    """Before any of them counts: all of a report's outputs can be judged, or none is."""
    if not len(outputs) == len(report.epochs) == len(report.indexes):
        counts = (len(outputs), len(report.epochs), len(report.indexes))
        raise BadMessage(f"a report with {counts} outputs, epochs and indexes")
    if unknown := [o.finish_reason for o in outputs if o.finish_reason not in FINISH_OUTCOMES]:
        raise BadMessage(f"outputs that end in unknown ways: {unknown[:3]}")


def refusal_of(instance_id: str, refused: pb.Refused) -> ShoalError:
    if refused.client_fault:
        return RefusedByInstance(refused.reason)
    return Unavailable(f"{instance_id}: {refused.reason}", retry_after_s=RETRY_AFTER_S)


__all__ = ["RefusedByInstance", "changes_of", "check_outputs", "info_of", "load_of", "refusal_of", "role_of"]
