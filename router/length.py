"""How many tokens a request will generate: a distribution over buckets, learned online from what requests turned out
to do, without reading their text.

One logistic model per bucket tells the chance that a request which got that far ends there (a discrete-time hazard
model). So a request that was cut short teaches what it can: that it was not over yet. Features are hashed into one
table of fixed size; steps shrink with what each entry has learned (AdaGrad). `LengthModel` is the sole owner of its
table; time and chance do not enter.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import log2
from zlib import crc32

import numpy as np

from shoal.router.arrays import Floats, Ints
from shoal.router.contract import RouteRequest

TABLE_ROWS = 1 << 13
STEP = 0.1
TYPICAL_STEP_S = 0.02  # a decode step
DOUBLING_S = tuple(0.25 * 2**n for n in range(11))  # bucket edges in decode time: 0.25 s to 4 min


def edges_by_time(step_s: float = TYPICAL_STEP_S, edges_s: Sequence[float] = DOUBLING_S) -> Floats:
    """Upper bucket edges in tokens, at `step_s` per token: what matters to others is how long a request stays. The
    last bucket is open."""
    edges: Floats = np.array([*sorted({max(round(edge / step_s), 1) for edge in edges_s}), np.inf])
    return edges


class LengthModel:
    """Learns from each ended request; predicts one row of chances per request."""

    def __init__(self, edges: Floats) -> None:
        """`edges`: rising upper edges in tokens, the last one inf."""
        self.edges = edges
        self.table = np.zeros((TABLE_ROWS, len(edges) - 1))
        self._learned = np.full_like(self.table, 1e-2)

    def predict(self, request: RouteRequest) -> Floats:
        """Chance of each bucket. What lies beyond `max_new_tokens` is counted in the bucket that holds it."""
        going_on = np.cumprod(1 - self._hazards(_rows(request)))
        survival = np.concatenate([[1.0], going_on, [0.0]])
        chances: Floats = survival[:-1] - survival[1:]
        last = self.bucket(request.max_new_tokens)
        chances[last] += chances[last + 1 :].sum()
        chances[last + 1 :] = 0
        return chances

    def learn(self, request: RouteRequest, new_tokens: int, *, over: bool = True) -> None:
        """`over`: it ended by itself. Else it was stopped (by its limit, its client, a crash) and would have gone
        on."""
        bucket, rows = self.bucket(new_tokens), _rows(request)
        reached = min(bucket + over, self.table.shape[1])
        if not reached:
            return
        ended = np.zeros(reached)
        if over and bucket < reached:
            ended[bucket] = 1
        slope = self._hazards(rows)[:reached] - ended
        self._learned[rows, :reached] += slope**2
        self.table[rows, :reached] -= STEP * slope / np.sqrt(self._learned[rows, :reached])

    def bucket(self, new_tokens: float) -> int:
        return int(np.searchsorted(self.edges, new_tokens))

    def expected(self, chances: Floats, max_new_tokens: int) -> float:
        """Mean number of tokens, each bucket taken at the middle of its part below the limit."""
        upper = np.minimum(self.edges, max_new_tokens)
        lower = np.minimum(np.concatenate([[0.0], self.edges[:-1]]), max_new_tokens)
        return float(chances @ (lower + upper) / 2)

    def _hazards(self, rows: Ints) -> Floats:
        hazards: Floats = 1 / (1 + np.exp(-np.clip(self.table[rows].sum(axis=0), -30, 30)))
        return hazards


def _rows(request: RouteRequest) -> Ints:
    """Table rows of a request: each feature by itself, and those that mean something else in each application."""
    traits = request.traits
    who = f"{request.tenant}/{request.lora or ''}/{traits.application}"
    octaves = _octave(request.context_tokens, 2), _octave(request.max_new_tokens, 2), _octave(traits.turn, 1)
    return _rows_of(who, *octaves, traits.temperature == 0, int(traits.hour) // 4)


@lru_cache(maxsize=1 << 14)
def _rows_of(who: str, prompt: int, limit: int, turn: int, greedy: bool, part_of_day: int) -> Ints:
    own = [f"p{prompt}", f"m{limit}", f"t{turn}", f"g{greedy}"]
    words = ["", who, f"h{part_of_day}", *own, *(f"{who}{word}" for word in own)]
    rows: Ints = np.unique([crc32(word.encode()) % TABLE_ROWS for word in words])
    return rows


def _octave(value: int, parts: int) -> int:
    return round(log2(1 + max(value, 0)) * parts)


class Reliability:
    """Of the times that p was said, did p come true? Counts what was said of every bucket, and whether the request
    ended in it, by tenths of p."""

    BINS = 10

    def __init__(self) -> None:
        self._said, self._came, self._times = np.zeros(self.BINS), np.zeros(self.BINS), np.zeros(self.BINS)

    def add(self, chances: Floats, bucket: int) -> None:
        bins = np.minimum((chances * self.BINS).astype(int), self.BINS - 1)
        np.add.at(self._said, bins, chances)
        np.add.at(self._times, bins, 1)
        self._came[bins[bucket]] += 1

    @property
    def error(self) -> float:
        """Expected calibration error: the mean distance between said and come, weighted by how often it was said."""
        return float(np.abs(self._said - self._came).sum() / max(self._times.sum(), 1))


__all__ = ["DOUBLING_S", "TABLE_ROWS", "LengthModel", "Reliability", "edges_by_time"]
