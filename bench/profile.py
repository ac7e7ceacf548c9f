"""What the steps of a live deployment take: a table of step times, and the coefficients fitted to it.

Two kinds of steps are seen from a client: a lone prompt of each size (time to its only token), and each batch of
decodes at each context (the median gap between two tokens while all of the batch decode). What the path to the client
adds is part of them. The table (--csv) is what `shoal bench simulate` and `shoal bench fidelity` read.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

from shoal.bench import load, stats
from shoal.bench.driver import Client, drive
from shoal.bench.outcome import Outcome
from shoal.bench.record import End, Record
from shoal.bench.sim.fit import COLUMNS, Measured, fit_hinge, fit_linear, measured_of
from shoal.bench.workload import LoadRequest
from shoal.proto.errors import ServerFault

DECODED = 33  # tokens of each request of a batch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    load.target_arguments(parser)
    parser.add_argument("--prompts", type=int, nargs="+", default=[16, 64, 256, 512, 1024], metavar="TOKENS")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 32], metavar="REQUESTS")
    parser.add_argument("--contexts", type=int, nargs="+", default=[64, 512], metavar="TOKENS")
    parser.add_argument("--instances", type=int, default=1, help="behind it; all are loaded alike and at once")
    parser.add_argument("--repeats", type=int, default=3, help="of each prompt size")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument("--vocabulary", type=int, default=256, help="token ids are drawn below this")
    parser.add_argument("--request-timeout", type=float, default=120.0)
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for each point of the table")
    parser.add_argument("--seed", type=int, default=0)


@dataclass(frozen=True, slots=True)
class Point:
    """One line of the table; see `COLUMNS` of bench/sim/fit.py."""

    prefill_tokens: int
    prefill_ctx: int
    decode_seqs: int
    decode_ctx: int
    ms: float


class Profiler:
    """Asks `client`, in front of `instances` equal instances. Owns the numbers of its requests: no prompt comes
    twice."""

    def __init__(self, client: Client, instances: int, timeout_s: float) -> None:
        self.client, self.instances, self.timeout_s = client, instances, timeout_s
        self._numbers = count()

    async def measure(
        self, prompts: Sequence[int], batches: Sequence[int], contexts: Sequence[int], repeats: int
    ) -> list[Point]:
        await self._answered(contexts[0], 2, 1)  # the first one pays for what is lazy
        points = []
        for tokens in prompts:
            ttft_s = [record.ttft_s for _ in range(repeats) for record in await self._answered(tokens, 1, 1)]
            points.append(Point(tokens, 0, 0, 0, stats.median(ttft_s) * 1e3))
        for context in contexts:
            for batch in batches:
                records = await self._answered(context, DECODED, batch)
                points.append(Point(0, 0, batch, context + DECODED // 2, together_ms(records)))
        return points

    async def _answered(self, tokens: int, output_tokens: int, batch: int) -> list[Record]:
        """`batch` requests on each instance, all at once."""
        requests = [LoadRequest(next(self._numbers), 0.0, tokens, output_tokens) for _ in range(batch * self.instances)]
        run = await drive(self.client, requests, timeout_s=self.timeout_s)
        failed = [record for record in run.records if record.end is not End.COMPLETED]
        if failed:
            raise ServerFault(f"{len(failed)} of {len(requests)} requests failed: {failed[0].error_text}")
        return run.records


def together_ms(records: Sequence[Record]) -> float:
    """Pure. The median gap while all of them decode; of all gaps, where some end before others begin."""
    began_s, ended_s = max(record.chunk_s[0] for record in records), min(record.chunk_s[-1] for record in records)
    gaps = [
        (gap_s, began_s <= at_s - gap_s and at_s <= ended_s)
        for record in records
        for gap_s, at_s in zip(record.gaps_s, record.chunk_s[1:], strict=True)
    ]
    return stats.median([gap_s for gap_s, inside in gaps if inside] or [gap_s for gap_s, _ in gaps]) * 1e3


def rows_of(points: Sequence[Point]) -> list[Measured]:
    return [measured_of(*asdict(point).values()) for point in points]


def write_table(points: Sequence[Point], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(map(asdict, points))


def fits_of(points: Sequence[Point]) -> dict[str, Any]:
    fits = {"linear": fit_linear(rows_of(points)), "hinge": fit_hinge(rows_of(points))}
    return {name: {**asdict(fit.step_time), "mape": fit.mape} for name, fit in fits.items()}


async def _measure(args: argparse.Namespace) -> list[Point]:
    context, _model = await load.client_of(args)
    async with context as client:
        profiler = Profiler(client, args.instances, args.timeout)
        return await profiler.measure(args.prompts, args.batches, args.contexts, args.repeats)


def run(args: argparse.Namespace) -> Outcome:
    points = asyncio.run(_measure(args))
    if args.csv:
        write_table(points, args.csv)
    return Outcome({"fits": fits_of(points), "rows": [asdict(point) for point in points]})


__all__ = ["Point", "Profiler", "add_arguments", "fits_of", "rows_of", "run", "together_ms", "write_table"]
