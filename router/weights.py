"""Learned weights: what is in a weights file, and which files are believed.

A file is JSON, small enough to read. It bends the price of `least_delay` (one factor per term) and adds a bounded
residual (one coefficient per feature, see `features`). All factors 1 and all coefficients 0 is the heuristic itself.
`read_weights` is the only way in, and promises:

  every number is finite, no name is unknown, and there are at most MOST_COEFFICIENTS
  no term's factor is below 0, and those of the load (LOAD_TERMS) are not below LEAST_FACTOR: load never becomes cheap
  no load feature lowers the price, whatever prompt or answer it is scaled by
  the residual changes a price by at most MOST_BAND of it
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from shoal.proto.errors import InvalidArgument
from shoal.router.delay import TERMS
from shoal.router.features import FEATURES, LOAD, MOST, REQUEST, SCALED_BY

MOST_BYTES = 64 << 10
MOST_COEFFICIENTS = 40
MOST_FACTOR, LEAST_FACTOR = 100.0, 0.05
MOST_BAND, MOST_COEFFICIENT = 0.5, 10.0
LOAD_TERMS = ("queue_ms", "pace_ms", "stall_ms", "crowd_ms")


class Seen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of one feature in training: where it lay (the outermost thousandth cut off on both sides), its mean, and its
    deviation."""

    low: float
    high: float
    mean: float
    deviation: float


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where weights come from. `scores`: workload -> policy -> what training maximised, on data that it did not see."""

    data: tuple[str, ...] = ()
    seed: int = 0
    episodes: int = 0
    versions: dict[str, str] = {}
    scores: dict[str, dict[str, float]] = {}
    note: str = ""


class RouterWeights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: str
    terms: dict[str, float] = {}
    residual: dict[str, float] = {}
    band: float = 0.25
    seen: dict[str, Seen] = {}
    provenance: Provenance = Provenance()

    def factor(self, term: str) -> float:
        return self.terms.get(term, 1.0)


def read_weights(raw: bytes) -> RouterWeights:
    """Raises InvalidArgument, which says what is wrong."""
    if len(raw) > MOST_BYTES:
        raise InvalidArgument("weights", limit=f"at most {MOST_BYTES} bytes", given=len(raw))
    try:
        weights = msgspec.json.decode(raw, type=RouterWeights)
    except msgspec.MsgspecError as exc:
        raise InvalidArgument("weights", limit="a weights file", given=str(exc)) from None
    check_weights(weights)
    return weights


def write_weights(weights: RouterWeights) -> bytes:
    check_weights(weights)
    return msgspec.json.format(msgspec.json.encode(weights), indent=1) + b"\n"


def check_weights(weights: RouterWeights) -> None:
    if not 0 < len(weights.version) <= 64:
        raise InvalidArgument("weights.version", limit="1 to 64 characters", given=weights.version)
    _check_names("terms", weights.terms, TERMS)
    _check_names("residual", weights.residual, FEATURES)
    _check_names("seen", weights.seen, (*FEATURES, *REQUEST))
    count = len(weights.terms) + len(weights.residual)
    if count > MOST_COEFFICIENTS:
        raise InvalidArgument("weights", limit=f"at most {MOST_COEFFICIENTS} coefficients", given=count)
    for term, factor in weights.terms.items():
        _check_between(f"terms.{term}", factor, LEAST_FACTOR if term in LOAD_TERMS else 0.0, MOST_FACTOR)
    for name, coefficient in weights.residual.items():
        _check_between(f"residual.{name}", coefficient, -MOST_COEFFICIENT, MOST_COEFFICIENT)
    _check_between("band", weights.band, 0.0, MOST_BAND)
    for name, seen in weights.seen.items():
        for number in msgspec.structs.astuple(seen):
            _check_between(f"seen.{name}", number, -1e6, 1e6)
    _check_signs(weights.residual)


def least_slope(residual: dict[str, float], load: str) -> float:
    """How much the price grows with one load feature, for the request that makes it least. The products are linear in
    the request's numbers, so the least is at an end of each."""
    slope = residual.get(load, 0.0)
    by_request = dict.fromkeys(REQUEST, 0.0)
    for product, (scaled, number) in SCALED_BY.items():
        if scaled == load:
            by_request[number] += residual.get(product, 0.0)
    return slope + sum(min(0.0, by_request[number] * MOST[number]) for number in REQUEST)


def _check_signs(residual: dict[str, float]) -> None:
    for load in sorted(LOAD):
        if (slope := least_slope(residual, load)) < -1e-9:
            raise InvalidArgument(f"weights.residual.{load}", limit="a price that never falls with load", given=slope)


def _check_names(field: str, given: dict[str, Any], known: Any) -> None:
    for name in given:
        if name not in known:
            raise InvalidArgument(f"weights.{field}", limit=f"among {', '.join(known)}", given=name)


def _check_between(field: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise InvalidArgument(f"weights.{field}", limit=f"from {low:g} to {high:g}", given=value)


__all__ = [
    "LEAST_FACTOR",
    "LOAD_TERMS",
    "MOST_BAND",
    "MOST_COEFFICIENT",
    "MOST_COEFFICIENTS",
    "MOST_FACTOR",
    "Provenance",
    "RouterWeights",
    "Seen",
    "check_weights",
    "least_slope",
    "read_weights",
    "write_weights",
]
