"""Requests drawn from ServeGen's parameters: per client and window a rate and its burstiness, per client the
distributions of lengths.

Reads two files (plain or gzip): clients.csv (client, window_start_s, rate_rps, cv, pattern, param1) and pdfs.jsonl (per
client and longer window, token count -> probability). A client keeps its own arrival process: gaps are drawn with the
window's mean and burstiness, so a burst of one client stays a burst. Pure but for reading; the random source is an
argument.
"""

from __future__ import annotations

import csv
import gzip
import math
import random
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import IO

import msgspec

from shoal.bench.traces import TraceRow
from shoal.proto.errors import InvalidArgument

WINDOW_S = 600.0


@dataclass(frozen=True, slots=True)
class Window:
    """`shape`: of the Weibull, where that is the pattern; a Gamma's follows from `cv`."""

    client: str
    start_s: float
    rate_rps: float
    cv: float
    pattern: str
    shape: float

    def gap(self, rng: random.Random, *, under_way: bool = False) -> float:
        """Between two requests, with mean 1. `under_way`: one that a random moment falls into, so rather a long one."""
        if self.pattern == "Weibull":
            draw = rng.gammavariate(1 + under_way / self.shape, 1.0) ** (1 / self.shape)
            return draw / math.gamma(1 + 1 / self.shape)
        shape = 1 / max(self.cv, 1e-3) ** 2
        return rng.gammavariate(shape + under_way, 1 / shape)


@dataclass(frozen=True, slots=True)
class Lengths:
    """One distribution over token counts."""

    tokens: tuple[int, ...]
    cumulative: tuple[float, ...]

    @staticmethod
    def of(pdf: dict[str, float]) -> Lengths:
        points = sorted((max(1, round(float(tokens))), share) for tokens, share in pdf.items())
        return Lengths(tuple([tokens for tokens, _ in points]), tuple(accumulate(share for _, share in points)))

    def draw(self, rng: random.Random) -> int:
        return self.tokens[min(bisect_right(self.cumulative, rng.random() * self.cumulative[-1]), len(self.tokens) - 1)]


class PdfLine(msgspec.Struct):
    client: int | str
    window_start_s: float
    input_tokens: dict[str, float]
    output_tokens: dict[str, float]


@dataclass(frozen=True, slots=True)
class Clients:
    """`lengths`: per client its windows by start, each with inputs and outputs."""

    windows: Sequence[Window]
    lengths: dict[str, list[tuple[float, Lengths, Lengths]]]

    def lengths_at(self, client: str, at_s: float) -> tuple[Lengths, Lengths]:
        """Those of the latest window begun by then, else of the first one there is."""
        known = self.lengths[client]
        index = max(bisect_right([start_s for start_s, _, _ in known], at_s) - 1, 0)
        return known[index][1:]


def read_clients(clients: Path, pdfs: Path) -> Clients:
    """Clients without any lengths are left out. Raises InvalidArgument."""
    lengths: dict[str, list[tuple[float, Lengths, Lengths]]] = {}
    for line in _lines(pdfs, msgspec.json.Decoder(PdfLine).decode):
        if line.input_tokens and line.output_tokens:
            both = Lengths.of(line.input_tokens), Lengths.of(line.output_tokens)
            lengths.setdefault(str(line.client), []).append((line.window_start_s, *both))
    for known in lengths.values():
        known.sort(key=lambda window: window[0])
    with _open(clients) as file:
        try:
            windows = [_window(row) for row in csv.DictReader(file) if row["client"] in lengths]
        except (KeyError, TypeError, ValueError) as exc:
            raise InvalidArgument(
                "clients", limit="client, window_start_s, rate_rps, cv, ...", given=str(exc)
            ) from None
    if not windows:
        raise InvalidArgument("clients", limit="windows of clients with lengths", given="none")
    return Clients(windows, lengths)


def _window(row: dict[str, str]) -> Window:
    shape = float(row["param1"] or 1)
    return Window(
        row["client"], float(row["window_start_s"]), float(row["rate_rps"]), float(row["cv"]), row["pattern"], shape
    )


def _open(path: Path) -> IO[str]:
    return gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")


def _lines(path: Path, decode: Callable[[str], PdfLine]) -> Iterator[PdfLine]:
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                yield decode(line)
            except msgspec.MsgspecError as exc:
                raise InvalidArgument(f"pdfs line {number}", limit="client, windows, pdfs", given=str(exc)) from None


def draw_rows(
    clients: Clients, *, start_s: float, duration_s: float, rate_rps: float | None, rng: random.Random
) -> list[tuple[str, TraceRow]]:
    """(client, row), by time, of `duration_s` seconds from `start_s` after the first window on. All rates are scaled by
    one factor to a mean of `rate_rps`; None: as they are."""
    begin_s = min(window.start_s for window in clients.windows) + start_s
    end_s = begin_s + duration_s
    seen = [window for window in clients.windows if begin_s < window.start_s + WINDOW_S and window.start_s < end_s]
    expected = sum(w.rate_rps * (min(w.start_s + WINDOW_S, end_s) - max(w.start_s, begin_s)) for w in seen)
    if expected <= 0:
        raise InvalidArgument("servegen", limit="a time with requests", given=f"{start_s} s and {duration_s} s on")
    factor = 1.0 if rate_rps is None else rate_rps * duration_s / expected
    drawn = [
        (client, _row(clients, client, at_s, begin_s, rng))
        for client in sorted({window.client for window in seen})
        for at_s in _arrivals([window for window in seen if window.client == client], factor, begin_s, end_s, rng)
    ]
    return sorted(drawn, key=lambda pair: pair[1].at_s)


def _arrivals(
    windows: Sequence[Window], factor: float, begin_s: float, end_s: float, rng: random.Random
) -> Iterator[float]:
    """One process through all windows of a client: a gap that begins in one goes on in the next, at its pace."""
    gap = windows[0].gap(rng, under_way=True) * rng.random()
    for window in sorted(windows, key=lambda window: window.start_s):
        at_s, until_s = max(begin_s, window.start_s), min(end_s, window.start_s + WINDOW_S)
        rate_rps = window.rate_rps * factor
        while rate_rps > 0 and gap <= (until_s - at_s) * rate_rps:
            at_s += gap / rate_rps
            yield at_s
            gap = window.gap(rng)
        gap -= (until_s - at_s) * rate_rps


def _row(clients: Clients, client: str, at_s: float, begin_s: float, rng: random.Random) -> TraceRow:
    inputs, outputs = clients.lengths_at(client, at_s)
    return TraceRow(at_s - begin_s, inputs.draw(rng), outputs.draw(rng))


__all__ = ["Clients", "Lengths", "Window", "draw_rows", "read_clients"]
