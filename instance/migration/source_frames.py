"""The frames that a move's source sends, made of what it knows."""

from __future__ import annotations

from shoal.instance.holdings import Held
from shoal.instance.migration.line import LineLost
from shoal.instance.migration.source import Source
from shoal.instance.migration.source_words import Declined
from shoal.proto.v1 import instance_pb2 as pb


def open_frame(
    move: pb.Move,
    held: Held,
    *,
    source: str,
    fingerprint: bytes,
    hashes: tuple[bytes, ...],
    shared_memory: str,
    traceparent: str,
) -> pb.Parcel:
    """`shared_memory`: the segment's name, or empty."""
    submit = pb.Submit(
        request_id=held.request_id,
        epoch=held.epoch,
        request=held.request,
        delivered=held.output,
        tenant=held.tenant,
        resume_key=held.resume_key,
        resume_context=held.resume_context,
    )
    return pb.Parcel(
        open=pb.Open(
            move_id=move.move_id,
            source=source,
            fingerprint=fingerprint,
            submit=submit,
            hashes=hashes,
            shared_memory=shared_memory,
            moves=held.moves,
            traceparent=traceparent,
        )
    )


def handover_frame(move: pb.Move, held: Held, *, prepared: bool, sent_bytes: int, stages: int) -> pb.Down:
    return pb.Down(
        handover=pb.Handover(
            move_id=move.move_id,
            request_id=held.request_id,
            epoch=held.epoch,
            index=held.next_index,
            target=move.target,
            prepared=prepared,
            reason=move.reason,
            sent_bytes=sent_bytes,
            stages=stages,
        )
    )


def moved_frame(move: pb.Move, machine: Source, *, ended_s: float, sent_bytes: int, tokens: int) -> pb.Moved:
    """Of a machine that has ended."""
    assert machine.ending is not None
    parked_s = machine.parked_s
    return pb.Moved(
        move_id=move.move_id,
        request_id=move.request_id,
        frontend=move.frontend,
        target=move.target,
        reason=move.reason,
        outcome=machine.ending.value,
        detail=machine.detail,
        sent_bytes=sent_bytes,
        stages=machine.stages,
        copy_s=(parked_s or ended_s) - machine.opened_s,
        parked_s=ended_s - parked_s if parked_s else 0.0,
        tokens=tokens,
    )


def refusal(receipt: pb.Receipt) -> Declined:
    """What a receipt other than the awaited one says. Raises LineLost."""
    if receipt.WhichOneof("receipt") != "declined":
        raise LineLost(f"the target answered {receipt.WhichOneof('receipt')}")
    return Declined(receipt.declined.reason, receipt.declined.no_room)


__all__ = ["handover_frame", "moved_frame", "open_frame", "refusal"]
