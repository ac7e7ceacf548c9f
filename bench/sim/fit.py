"""Step-time models from measured step times. Pure least squares on relative errors, with no coefficient below zero.

A row is what a step computed and how long it took. Forms: see `shoal.instance.step_time`.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from shoal.instance.step_time import HingeStepTime, LinearStepTime, StepTime, StepWork, TableStepTime
from shoal.proto.errors import InvalidArgument

HINGES = (16, 32, 64, 96, 128, 160, 192, 224, 256, 384, 512)
KNOTS = (1, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
COLUMNS = ("prefill_tokens", "prefill_ctx", "decode_seqs", "decode_ctx", "ms")
OTHER_NAMES = {
    "prefill_tokens": "prefill_chunk",
    "prefill_ctx": "kv_prefill",
    "decode_seqs": "n_decode",
    "decode_ctx": "kv_decode",
}


class Measured(NamedTuple):
    work: StepWork
    ms: float


@dataclass(frozen=True, slots=True)
class Fit:
    """`mape`: mean absolute error as a share of the measured time."""

    step_time: StepTime
    mape: float


def read_table(path: Path, where: Mapping[str, str] | None = None) -> list[Measured]:
    """A .csv (maybe .gz) with the columns of COLUMNS, or those of OTHER_NAMES; one step per line: one prompt's chunk
    after its context, and decodes with a context each. `where`: only lines with these values in these columns."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        table = list(enumerate(csv.DictReader(lines), start=2))
    return [_measured(number, row) for number, row in table if (where or {}).items() <= row.items()]


def _measured(number: int, row: Mapping[str, str]) -> Measured:
    try:
        values = [float(row.get(name) or row[OTHER_NAMES[name]]) for name in COLUMNS]
    except (KeyError, TypeError, ValueError) as exc:
        raise InvalidArgument(f"table line {number}", limit=f"columns {', '.join(COLUMNS)}", given=str(exc)) from None
    return measured_of(*values)


def measured_of(tokens: float, context: float, decodes: float, each: float, ms: float) -> Measured:
    """In the order of COLUMNS: one prompt's chunk after its context, and decodes with a context each."""
    pairs = tokens * context + tokens**2 / 2
    return Measured(StepWork(int(tokens), pairs, int(decodes), int(decodes * each)), ms)


def fit_linear(rows: Sequence[Measured]) -> Fit:
    x = _solve(rows, lambda w: [1, w.prefill_tokens, w.prefill_pairs / 1e6, w.decodes, w.context_tokens / 1e3])
    return _judged(LinearStepTime(*x), rows)


def fit_hinge(rows: Sequence[Measured]) -> Fit:
    return min((_fit_hinge(rows, hinge) for hinge in HINGES), key=lambda fit: fit.mape)


def _fit_hinge(rows: Sequence[Measured], hinge: int) -> Fit:
    def features(w: StepWork) -> list[float]:
        over = max(0, w.prefill_tokens + w.decodes - hinge)
        return [1, over, w.prefill_pairs / 1e6, w.decodes, w.context_tokens / 1e3]

    return _judged(HingeStepTime(*_solve(rows, features), hinge_tokens=hinge), rows)


def fit_table(rows: Sequence[Measured]) -> Fit:
    """One free time per knot of P + D, and linear attention."""
    knots = _knots({row.work.prefill_tokens + row.work.decodes for row in rows})

    def features(w: StepWork) -> list[float]:
        dense = [float(np.interp(w.prefill_tokens + w.decodes, knots, hat)) for hat in np.eye(len(knots))]
        return [*dense, w.prefill_pairs / 1e6, w.decodes, w.context_tokens / 1e3]

    *dense_ms, c_ms, d_ms, e_ms = _solve(rows, features)
    return _judged(TableStepTime(tuple(knots), tuple(dense_ms), c_ms, d_ms, e_ms), rows)


def _knots(totals: Set[int]) -> list[int]:
    """From the least total to the greatest, and where others are near: a time that nothing was measured at is free to
    be anything."""
    if len(totals) < 2:
        raise InvalidArgument("table", limit="steps of at least two sizes", given=sorted(totals))
    near = [knot for knot in KNOTS if any(knot / 1.4 < total < knot * 1.4 for total in totals)]
    ends = [min(totals), max(totals)]
    return sorted({*ends, *(knot for knot in near if ends[0] * 1.4 < knot < ends[1] / 1.4)})


FITS: dict[str, Callable[[Sequence[Measured]], Fit]] = {"linear": fit_linear, "hinge": fit_hinge, "table": fit_table}


def _judged(step_time: StepTime, rows: Sequence[Measured]) -> Fit:
    return Fit(step_time, float(np.mean([abs(step_time.step_ms(row.work) / row.ms - 1) for row in rows])))


def _solve(rows: Sequence[Measured], features: Callable[[StepWork], Sequence[float]]) -> list[float]:
    a = np.array([features(row.work) for row in rows], dtype=float) / np.array([[row.ms] for row in rows])
    return _least_squares(a, np.ones(len(rows)))


def _least_squares(a: Any, b: Any) -> list[float]:
    """Non-negative: what comes out below zero is set to zero and the rest solved again."""
    free = np.ones(a.shape[1], dtype=bool)
    while True:
        x = np.zeros(a.shape[1])
        x[free] = np.linalg.lstsq(a[:, free], b, rcond=None)[0]
        if (x >= 0).all():
            return [float(value) for value in x]
        free &= x > 0


__all__ = ["COLUMNS", "FITS", "Fit", "Measured", "fit_hinge", "fit_linear", "fit_table", "measured_of", "read_table"]
