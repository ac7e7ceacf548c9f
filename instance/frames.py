"""Words of the inner protocol made of what the instance knows, and the other way round. Pure; see instance.proto."""

from __future__ import annotations

from collections.abc import Iterable

from shoal.instance.holdings import Held
from shoal.instance.seam import BlockChange, EngineInfo, Submission
from shoal.instance.stepper import StepRecord
from shoal.instance.watcher import Said
from shoal.proto.codec import WireOutput
from shoal.proto.v1 import instance_pb2 as pb

PROTOCOL = 1
TELL_BLOCKS = "tell_blocks"  # the call by which a watcher that missed block changes asks for all of them anew
KINDS = {"stored": pb.BlockChange.STORED, "removed": pb.BlockChange.REMOVED, "cleared": pb.BlockChange.CLEARED}


def load_frame(record: StepRecord, *, draining: bool) -> pb.Load:
    load = record.load
    return pb.Load(
        running=load.running,
        waiting=load.waiting,
        queued_prefill_tokens=load.queued_prefill_tokens,
        uncached_prefill_tokens=load.uncached_prefill_tokens,
        context_tokens=load.context_tokens,
        free_blocks=load.free_blocks,
        total_blocks=load.total_blocks,
        step_ms=record.step_ms,
        draining=draining,
    )


def welcome_frame(
    info: EngineInfo, *, instance_id: str, role: str, pid: int, loras: Iterable[str], load: pb.Load
) -> pb.Down:
    return pb.Down(
        welcome=pb.Welcome(
            protocol=PROTOCOL,
            instance_id=instance_id,
            role=role,
            model=info.model,
            vllm_version=info.vllm_version,
            block_size=info.block_size,
            total_blocks=info.total_blocks,
            max_model_len=info.max_model_len,
            max_num_batched_tokens=info.max_num_batched_tokens,
            max_num_seqs=info.max_num_seqs,
            hash_seed=info.hash_seed,
            pid=pid,
            loras=loras,
            load=load,
        )
    )


def objection(hello: pb.Hello, info: EngineInfo) -> str | None:
    """Why that peer cannot be talked to. A peer without a vLLM version submits nothing, so any will do."""
    if hello.protocol == PROTOCOL and hello.vllm_version in ("", info.vllm_version):
        return None
    ours = f"protocol {PROTOCOL}, vLLM {info.vllm_version}"
    return f"this instance speaks {ours}; protocol {hello.protocol}, vLLM {hello.vllm_version} was offered"


def block_changes(changes: Iterable[BlockChange]) -> list[pb.BlockChange]:
    return [pb.BlockChange(kind=KINDS[change.kind], hashes=change.hashes) for change in changes]


def held_of(submit: pb.Submit, *, watcher: int, frontend: str) -> tuple[Held, Submission]:
    submission = Submission(submit.request_id, submit.epoch, submit.request, tuple(submit.delivered))
    held = Held(
        submit.request_id,
        submit.epoch,
        submission.engine_id,
        watcher,
        submit.tenant,
        submit.request,
        submission.delivered,
        submit.resume_key,
        submit.resume_context,
        frontend,
        traceparent=submit.traceparent,
    )
    return held, submission


def refused_frame(request_id: str, epoch: int, reason: str, *, client_fault: bool) -> pb.Down:
    return pb.Down(
        refused=pb.Refused(request_id=request_id, epoch=epoch, reason=reason[:1000], client_fault=client_fault)
    )


def adopted_frame(resume_key: str, held: Held | None) -> pb.Down:
    adopted = pb.Adopted(resume_key=resume_key, found=held is not None)
    if held is not None:
        adopted.epoch, adopted.request, adopted.resume_context = held.epoch, held.request, held.resume_context
    return pb.Down(adopted=adopted)


def replay(held: Held) -> Said:
    """All its output so far, from index 0 on, under its present name and epoch."""
    said, index = Said(), 0
    for output in [WireOutput("", list(held.delivered)), *held.kept]:
        output.request_id = held.request_id
        if output.new_token_ids or output.finish_reason is not None:
            said.add(output, held.epoch, index)
        index += len(output.new_token_ids)
    return said


__all__ = [
    "PROTOCOL",
    "TELL_BLOCKS",
    "adopted_frame",
    "block_changes",
    "held_of",
    "load_frame",
    "objection",
    "refused_frame",
    "replay",
    "welcome_frame",
]
