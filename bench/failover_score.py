"""What a fault did to the streams that it met: tokens, losses, and the time to the next token. Pure.

A stream is *affected* if the victim served it and it was not finished when the fault came. A token that was already
on its way then is not a sign of recovery: recovery ends with the token that ends the first pause after the fault,
where a pause is a gap of at least PAUSE times the stream's usual gap. Where there was no such pause, it ends with the
first token after the fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest

from shoal.bench import stats
from shoal.bench.record import End, Record

PAUSE = 3.0


@dataclass(frozen=True, slots=True)
class StreamResult:
    affected: bool
    lost: bool
    token_mismatches: int
    text_equal: bool
    recovery_ms: float | None = None


def is_affected(record: Record, victim: str, fault_s: float) -> bool:
    return record.instance == victim and (record.end is End.PENDING or record.finished_s > fault_s)


def recovery_s(token_s: Sequence[float], fault_s: float) -> float | None:
    """From the fault to the next new token; None where none came."""
    usual_s = stats.median([after - before for before, after in pairwise(at_s for at_s in token_s if at_s <= fault_s)])
    later = [(before, after) for before, after in pairwise([fault_s, *token_s]) if after > fault_s]
    if not later:
        return None
    # Of a gap that spans the fault only the part after it counts, which is what the client waited for.
    pauses = (after for before, after in later if after - max(before, fault_s) >= PAUSE * usual_s)
    return next(pauses, later[0][1]) - fault_s


def mismatches(got: Sequence[int], wanted: Sequence[int]) -> int:
    """Positions that differ; a missing or surplus token is one each."""
    return sum(a != b for a, b in zip_longest(got, wanted))


def judge(record: Record, reference: Record, victim: str, fault_s: float) -> StreamResult:
    affected = is_affected(record, victim, fault_s)
    lost = record.end is not End.COMPLETED
    # A lost stream must still be right as far as it went.
    wanted = reference.token_ids[: len(record.token_ids)] if lost else reference.token_ids
    text, wanted_text = "".join(record.text), "".join(reference.text)
    recovered_s = recovery_s(record.chunk_s, fault_s) if affected else None
    return StreamResult(
        affected,
        lost,
        mismatches(record.token_ids, wanted),
        lost or text == wanted_text,
        None if recovered_s is None else recovered_s * 1e3,
    )


__all__ = ["PAUSE", "StreamResult", "is_affected", "judge", "mismatches", "recovery_s"]
