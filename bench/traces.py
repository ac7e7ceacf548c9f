"""Reads request traces by path: the Azure CSV form and the Mooncake JSONL form, plain or gzip. Owns nothing but the
two parsers.

A row says when a request came, how long its prompt and answer were, and, where the trace knows it, which prefix
blocks the prompt is made of: equal ids in front mean equal prompts in front. Times start at 0 with the earliest row,
and rows are sorted by time. Prompt text is in none of these traces; workload.py makes tokens up.
"""

from __future__ import annotations

import csv
import gzip
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import msgspec

from shoal.proto.errors import InvalidArgument, NotFound

TRACES_VARIABLE = "SHOAL_TRACES"


@dataclass(frozen=True, slots=True)
class TraceRow:
    at_s: float
    input_tokens: int
    output_tokens: int
    block_ids: tuple[int, ...] = ()
    block_tokens: int = 0


def find_trace(name: str, environment: Mapping[str, str] = os.environ) -> Path:
    """A path, or a file name in the folder that $SHOAL_TRACES names. Raises NotFound: no data is shipped."""
    folder = environment.get(TRACES_VARIABLE)
    places = [Path(name), *([Path(folder) / name] if folder else [])]
    for place in places:
        if place.is_file():
            return place
    where = folder or f"${TRACES_VARIABLE}, which is not set"
    raise NotFound(f"trace: no file {name}, neither as a path nor in {where}")


def read_trace(path: Path, rng: random.Random) -> list[TraceRow]:
    """The form is told by the name: .csv or .jsonl, with or without .gz."""
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    opener = gzip.open if path.suffix == ".gz" else open
    parsers = {".csv": parse_azure, ".jsonl": lambda lines: spread_ticks(parse_mooncake(lines), rng)}
    if suffix not in parsers:
        raise InvalidArgument(
            "trace", limit="a .csv (Azure) or .jsonl (Mooncake) file, or one of these with .gz", given=path.name
        )
    with opener(path, "rt", encoding="utf-8") as lines:
        rows = parsers[suffix](lines)
    if not rows:
        raise InvalidArgument("trace", limit="a file with at least one request", given=path.name)
    return _from_zero(rows)


def parse_azure(lines: Iterable[str]) -> list[TraceRow]:
    """TIMESTAMP (wall clock, 100 ns), ContextTokens, GeneratedTokens."""
    rows = []
    for number, row in enumerate(csv.DictReader(lines), start=2):
        try:
            at_s = _wall_clock_s(row["TIMESTAMP"])
            rows.append(TraceRow(at_s, int(row["ContextTokens"]), int(row["GeneratedTokens"])))
        except (KeyError, ValueError, TypeError) as exc:
            raise InvalidArgument(
                f"trace line {number}", limit="TIMESTAMP,ContextTokens,GeneratedTokens", given=str(exc)
            ) from None
    return rows


def _wall_clock_s(text: str) -> float:
    # datetime knows microseconds; these files have seven digits.
    whole, _, fraction = text.strip().rstrip("Z").partition(".")
    moment = datetime.fromisoformat(whole + "+00:00")
    return moment.timestamp() + float(f"0.{fraction or 0}")


def parse_mooncake(lines: Iterable[str]) -> list[TraceRow]:
    """timestamp (ms), input_length, output_length, hash_ids of 512-token blocks; or in ns with 16-token blocks."""
    return [_mooncake_row(number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def _mooncake_row(number: int, line: str) -> TraceRow:
    try:
        row: dict[str, Any] = msgspec.json.decode(line)
        ids = tuple(int(block) for block in row.get("hash_ids", ()))
        if "arrival_time_ns" in row:
            return TraceRow(row["arrival_time_ns"] / 1e9, int(row["input_toks"]), int(row["output_toks"]), ids, 16)
        return TraceRow(row["timestamp"] / 1e3, int(row["input_length"]), int(row["output_length"]), ids, 512)
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError, AttributeError) as exc:
        raise InvalidArgument(
            f"trace line {number}", limit="timestamp, input_length, output_length, hash_ids", given=str(exc)
        ) from None


def spread_ticks(rows: Sequence[TraceRow], rng: random.Random) -> list[TraceRow]:
    """Requests that a coarse clock put on one tick are spread evenly over the time to the next tick, in random order.

    The last tick is taken to be as long as the usual one. A trace without equal times is left as it is.
    """
    ticks = [
        (at_s, list(group)) for at_s, group in groupby(sorted(rows, key=lambda row: row.at_s), key=lambda row: row.at_s)
    ]
    if len(ticks) == len(rows):
        return [row for _, group in ticks for row in group]
    starts = [at_s for at_s, _ in ticks]
    widths = [after - before for before, after in pairwise(starts)]
    widths.append(sorted(widths)[len(widths) // 2] if widths else 1.0)
    spread = [
        replace(row, at_s=at_s + rng.random() * width_s)
        for (at_s, group), width_s in zip(ticks, widths, strict=True)
        for row in group
    ]
    return sorted(spread, key=lambda row: row.at_s)


def _from_zero(rows: Sequence[TraceRow]) -> list[TraceRow]:
    ordered = sorted(rows, key=lambda row: row.at_s)
    return [replace(row, at_s=row.at_s - ordered[0].at_s) for row in ordered]


def cut(rows: Sequence[TraceRow], start_s: float, end_s: float) -> list[TraceRow]:
    """The rows of [start_s, end_s), with times from 0 again."""
    kept = [row for row in rows if start_s <= row.at_s < end_s]
    return _from_zero(kept) if kept else []


def scale_time(rows: Sequence[TraceRow], factor: float) -> list[TraceRow]:
    """Twice the factor is twice the time and half the rate; burstiness stays."""
    return [replace(row, at_s=row.at_s * factor) for row in rows]


def scale_to_rate(rows: Sequence[TraceRow], rate_rps: float) -> list[TraceRow]:
    span_s = rows[-1].at_s
    return scale_time(rows, (len(rows) - 1) / rate_rps / span_s) if span_s > 0 else list(rows)


def scale_lengths(
    rows: Sequence[TraceRow], factor: float, *, max_input_tokens: int, max_output_tokens: int
) -> list[TraceRow]:
    """Shorter prompts and answers for small machines. Blocks shrink alike: the shared part of a prompt stays shared."""
    return [
        replace(
            row,
            input_tokens=min(max_input_tokens, max(1, round(row.input_tokens * factor))),
            output_tokens=min(max_output_tokens, max(1, round(row.output_tokens * factor))),
            block_tokens=max(1, round(row.block_tokens * factor)) if row.block_tokens else 0,
        )
        for row in rows
    ]


__all__ = [
    "TRACES_VARIABLE",
    "TraceRow",
    "cut",
    "find_trace",
    "parse_azure",
    "parse_mooncake",
    "read_trace",
    "scale_lengths",
    "scale_time",
    "scale_to_rate",
    "spread_ticks",
]
