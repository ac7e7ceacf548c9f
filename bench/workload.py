"""What is asked: turns arrival times and lengths, or trace rows, into requests. Pure; the seed decides everything.

A request does not hold its prompt: `prompt` makes the token ids when they are sent, the same each time. So a long
trace costs no memory, and equal block ids give equal tokens in front, which is what a prefix cache sees.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shoal.bench.traces import TraceRow
from shoal.proto.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class RequestClass:
    """A share of the requests that belongs together. Smaller `priority` is served first."""

    name: str = "default"
    share: float = 1.0
    tenant: str = "default"
    priority: int = 0


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """One request to send `due_s` after the start. `hang_up_after`: the client leaves after so many tokens."""

    index: int
    due_s: float
    input_tokens: int
    output_tokens: int
    block_ids: tuple[int, ...] = ()
    block_tokens: int = 0
    kind: RequestClass = RequestClass()
    hang_up_after: int | None = None


@dataclass(frozen=True, slots=True)
class PromptMaker:
    """Token ids for requests: uniform over [0, vocabulary), fixed by (seed, block id) and (seed, request index)."""

    seed: int
    vocabulary: int

    def prompt(self, request: LoadRequest) -> list[int]:
        shared = [self._draw((0, block), request.block_tokens) for block in request.block_ids]
        own = request.input_tokens - request.block_tokens * len(request.block_ids)
        parts = [*shared, self._draw((1, request.index), own)] if own > 0 else shared
        return [token for part in parts for token in part][: request.input_tokens]

    def _draw(self, key: tuple[int, int], count: int) -> list[int]:
        return np.random.default_rng((self.seed, *key)).integers(0, self.vocabulary, count).tolist()


@dataclass(frozen=True, slots=True)
class FixedLength:
    tokens: int

    def draw(self, rng: random.Random) -> int:
        return self.tokens


@dataclass(frozen=True, slots=True)
class LogNormalLength:
    """A heavy tail with the given mean; sigma is the deviation of the logarithm. Cut at `cap_tokens`."""

    mean_tokens: int
    sigma: float
    cap_tokens: int

    def draw(self, rng: random.Random) -> int:
        mu = float(np.log(self.mean_tokens)) - self.sigma**2 / 2
        return max(1, min(self.cap_tokens, round(rng.lognormvariate(mu, self.sigma))))


Length = FixedLength | LogNormalLength


def synthetic_rows(times_s: Sequence[float], inputs: Length, outputs: Length, rng: random.Random) -> list[TraceRow]:
    return [TraceRow(at_s, inputs.draw(rng), outputs.draw(rng)) for at_s in times_s]


def build_requests(
    rows: Sequence[TraceRow],
    rng: random.Random,
    *,
    classes: Sequence[RequestClass] = (RequestClass(),),
    hang_up_share: float = 0.0,
) -> list[LoadRequest]:
    """Classes are drawn by their shares; a hang-up comes after 0 to all but one of the tokens asked for."""
    if not 0 <= hang_up_share <= 1:
        raise InvalidArgument("hangup", limit="from 0 to 1", given=hang_up_share)
    shares = [kind.share for kind in classes]
    return [
        LoadRequest(
            index,
            row.at_s,
            row.input_tokens,
            row.output_tokens,
            row.block_ids,
            row.block_tokens,
            kind=rng.choices(classes, shares)[0],
            hang_up_after=rng.randrange(row.output_tokens) if rng.random() < hang_up_share else None,
        )
        for index, row in enumerate(rows)
    ]


def parse_class(text: str) -> RequestClass:
    """NAME:SHARE[:TENANT[:PRIORITY]]"""
    name, share, tenant, priority = [*text.split(":"), "", "", ""][:4]
    try:
        kind = RequestClass(name, float(share), tenant or "default", int(priority or 0))
    except ValueError:
        kind = None
    if kind is None or not name or kind.share <= 0 or text.count(":") > 3:
        raise InvalidArgument("class", limit="NAME:SHARE[:TENANT[:PRIORITY]] with a share above 0", given=text)
    return kind


__all__ = [
    "FixedLength",
    "Length",
    "LoadRequest",
    "LogNormalLength",
    "PromptMaker",
    "RequestClass",
    "build_requests",
    "parse_class",
    "synthetic_rows",
]
