"""When requests arrive: Poisson, Gamma with a given coefficient of variation, or a fixed interval. Pure; the random
source is an argument.

Times are seconds from the start of the run and never fall. The first request arrives at 0: a run of n requests spans
n - 1 gaps.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from shoal.proto.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Poisson:
    """Memoryless arrivals: gaps have a coefficient of variation of 1."""

    def gap_s(self, mean_s: float, rng: random.Random) -> float:
        return rng.expovariate(1 / mean_s)


@dataclass(frozen=True, slots=True)
class Gamma:
    """Bursty (cv > 1) or regular (cv < 1) arrivals; cv is the deviation of the gaps over their mean."""

    cv: float

    def gap_s(self, mean_s: float, rng: random.Random) -> float:
        shape = 1 / self.cv**2
        return rng.gammavariate(shape, mean_s / shape)


@dataclass(frozen=True, slots=True)
class Fixed:
    def gap_s(self, mean_s: float, rng: random.Random) -> float:
        return mean_s


Arrival = Poisson | Gamma | Fixed


def parse_arrival(text: str) -> Arrival:
    """`poisson`, `fixed` or `gamma:CV`."""
    match text.split(":"):
        case ["poisson"]:
            return Poisson()
        case ["fixed"]:
            return Fixed()
        case ["gamma", cv]:
            return Gamma(_positive(cv, text))
    raise InvalidArgument("arrival", limit="poisson, fixed or gamma:CV", given=text)


def _positive(number: str, text: str) -> float:
    try:
        value = float(number)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise InvalidArgument("arrival", limit="gamma:CV with a CV above 0", given=text)
    return value


def arrival_times(arrival: Arrival, rate_rps: float, count: int, rng: random.Random) -> list[float]:
    if rate_rps <= 0:
        raise InvalidArgument("rate", limit="above 0", given=rate_rps)
    gaps = (arrival.gap_s(1 / rate_rps, rng) for _ in range(count - 1))
    return list(accumulate(gaps, initial=0.0)) if count > 0 else []


def with_tide(times_s: Sequence[float], share: float, period_s: float) -> list[float]:
    """The same arrivals with time bent so that the rate is mean x (1 - share x cos(2 pi t / period))."""
    if not share:
        return list(times_s)
    bent_s = np.arange(0.0, times_s[-1] + 2 * period_s, period_s / 1000)
    passed_s = bent_s - share * period_s / (2 * np.pi) * np.sin(2 * np.pi * bent_s / period_s)
    return [float(at_s) for at_s in np.interp(times_s, passed_s, bent_s)]


__all__ = ["Arrival", "Fixed", "Gamma", "Poisson", "arrival_times", "parse_arrival", "with_tide"]
