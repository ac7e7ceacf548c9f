"""One run of the simulator in training: what is drawn for it, how it is scored, and what its decisions looked like.

An episode draws workload, fleet size, load, frontends, staleness, step-time overhead and window, so that weights fit
none of them. The score is the share of requests within the SLO less a small price for time: LATENCY x log(mean
end-to-end time / that of the heuristic on the very same requests).
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from math import log
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np

from shoal.bench.policy_grid import Condition, Part, Run, Setting, config_of, summary_of
from shoal.router.arrays import Floats
from shoal.router.features import FEATURES, REQUEST, features, of_request
from shoal.router.place import Policy
from shoal.router.profile import build_policy, learned_policy
from shoal.router.snapshot import Question
from shoal.router.weights import RouterWeights, Seen

HEURISTIC = "least_delay"
LATENCY = 0.2
FLEETS, FRONTENDS, STALE_S = (2, 4, 8, 16), (1, 1, 2, 4), (0.0, 0.05, 0.2)
LOADS, OVERHEADS_MS = (0.6, 1.1), (2.0, 4.0)
CUT = 0.001
KEPT_ROWS = 20_000


class Episode(NamedTuple):
    """`base`: what the heuristic made of it; None before it was asked."""

    setting: Setting
    run: Run
    overhead_ms: float
    base: Mapping[str, float] | None = None


def draw(
    rng: Random, traces: Path, workloads: Sequence[str], seconds: float, capacity: Callable[[str, int], float]
) -> Episode:
    """`capacity`: in requests per second, of a workload and a fleet."""
    workload, instances = rng.choice(workloads), rng.choice(FLEETS)
    load = rng.uniform(*LOADS)
    condition = Condition(workload, instances, load, rng.choice(FRONTENDS))
    rate_rps = load * capacity(workload, instances)
    setting = Setting(traces, seconds, rng.choice(STALE_S), Part.TRAIN)
    return Episode(setting, Run(condition, HEURISTIC, rng.randrange(1000), rate_rps), rng.uniform(*OVERHEADS_MS))


def play(episode: Episode, policy: Policy) -> dict[str, float]:
    """No cycles are made in a run: looking for them would be half of its time."""
    config = config_of(episode.setting, episode.run).model_copy(update={"overhead_ms": episode.overhead_ms})
    gc.disable()
    try:
        return summary_of(config, policy)
    finally:
        gc.enable()


def with_base(episode: Episode) -> Episode:
    return episode._replace(base=play(episode, build_policy(HEURISTIC)))


def score(values: Mapping[str, float], base: Mapping[str, float]) -> float:
    return values["slo_met_share"] - LATENCY * log(max(values["e2e_ms_mean"], 1e-3) / max(base["e2e_ms_mean"], 1e-3))


def judge(given: tuple[Episode, RouterWeights]) -> float:
    """Of an episode with its base."""
    episode, weights = given
    assert episode.base is not None
    return score(play(episode, learned_policy(weights)), episode.base)


def judge_named(given: tuple[Episode, str]) -> float:
    """The same, of a named policy."""
    episode, name = given
    assert episode.base is not None
    return score(play(episode, build_policy(name)), episode.base)


class Looker:
    """A picker that keeps what it was shown: rows of features, and which was chosen."""

    def __init__(self, policy: Policy) -> None:
        self.rows: list[Floats] = []
        self.chosen: list[int] = []
        self.requests: list[tuple[float, float]] = []
        self.prices = build_policy(HEURISTIC)
        self.policy = Policy(policy.name, policy.filters, {"look": self._look}, {"look": 1.0}, self._pick)
        self._asked = policy

    def _look(self, question: Question) -> Floats:
        if len(self.rows) < KEPT_ROWS:
            self.rows.append(features(question, _summed(self.prices, question)))
            self.requests.append(of_request(question))
        return _summed(self._asked, question)

    def _pick(self, totals: Floats, rng: Random) -> int:
        chosen = self._asked.picker(totals, rng)
        if len(self.chosen) < KEPT_ROWS:
            self.chosen.append(chosen)
        return chosen


def _summed(policy: Policy, question: Question) -> Floats:
    totals: Floats = np.zeros(len(question.members))
    for _, scorer, weight in policy.asked:
        totals = totals + weight * scorer(question)
    return totals


def look(given: tuple[Episode, str]) -> tuple[list[Floats], list[int], list[tuple[float, float]], float]:
    """What a named policy saw and chose in this episode, and its score."""
    episode, name = given
    assert episode.base is not None
    looker = Looker(build_policy(name))
    gained = score(play(episode, looker.policy), episode.base)
    return looker.rows, looker.chosen, looker.requests, gained


def seen_of(rows: Sequence[Floats], requests: Sequence[tuple[float, float]]) -> dict[str, Seen]:
    """Of all that episodes showed."""
    columns = dict(zip(FEATURES, np.concatenate(rows).T, strict=True))
    columns |= dict(zip(REQUEST, np.array(requests).T, strict=True))
    return {name: _seen(column) for name, column in columns.items()}


def _seen(column: Floats) -> Seen:
    low, high = np.quantile(column, (CUT, 1 - CUT))
    return Seen(*(round(float(one), 6) for one in (low, high, column.mean(), column.std())))


__all__ = [
    "HEURISTIC",
    "LATENCY",
    "Episode",
    "Looker",
    "draw",
    "judge",
    "judge_named",
    "look",
    "play",
    "score",
    "seen_of",
    "with_base",
]
