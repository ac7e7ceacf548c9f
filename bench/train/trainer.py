"""The training itself: a start by imitation, then cma over episodes, then a look at data that it did not see.

`Trainer` owns the search and its learning curve. Where the work runs is the caller's: `spread(work, given)` does many
at once or one after the other. Each generation has new episodes, the same for all its candidates, and every score is
relative to the heuristic's on that very episode, so luck of the draw cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from shoal.bench.policy_grid import Condition, Part, Run, Setting
from shoal.bench.train.episode import HEURISTIC, Episode, draw, judge, judge_named, look, seen_of, with_base
from shoal.bench.train.imitate import imitate
from shoal.bench.train.space import SIZE, TERM_NAMES, weights_of
from shoal.router.arrays import Floats
from shoal.router.weights import Provenance, RouterWeights, Seen

TEACHERS = ("least_delay", "lmetric", "least_impact", "llumnix_backlog")
SIGMA = 0.5
EXAM_FLEET, EXAM_STALE_S = 16, 0.05
Spread = Callable[[Callable[[Any], Any], Sequence[Any]], list[Any]]


class Budget(NamedTuple):
    generations: int
    candidates: int
    episodes: int
    seconds: float


class Point(NamedTuple):
    """Of the learning curve: scores of one generation's candidates, on its episodes."""

    generation: int
    best: float
    mean: float


class Trainer:
    def __init__(
        self,
        traces: Path,
        workloads: Sequence[str],
        budget: Budget,
        *,
        seed: int,
        capacity: Callable[[str, int], float],
        spread: Spread,
    ) -> None:
        self.traces, self.workloads, self.budget, self.seed = traces, tuple(workloads), budget, seed
        self.capacity, self.spread, self.rng = capacity, spread, Random(seed)
        self.curve: list[Point] = []
        self.played = 0
        self.teacher = HEURISTIC
        self.seen: dict[str, Seen] = {}

    def train(self, told: Callable[[Point], None] = lambda point: None) -> Floats:
        """The vector that the search believes in at its end."""
        import cma  # noqa: PLC0415 - of the extra `train`

        options = {"popsize": self.budget.candidates, "seed": self.seed + 1, "verbose": -9, "bounds": [-4, 4]}
        search = cma.CMAEvolutionStrategy(self.start(), SIGMA, options)
        for generation in range(self.budget.generations):
            candidates = search.ask()
            scores = self.scores(candidates)
            search.tell(candidates, [-one for one in scores])
            self.curve.append(Point(generation, max(scores), fmean(scores)))
            told(self.curve[-1])
        return np.array(search.result.xfavorite)

    def start(self) -> Floats:
        """Zero, or the imitation of the best teacher, whichever scores better. Notes what features looked like."""
        episodes = self.episodes(max(self.budget.episodes, len(self.workloads)))
        views = self.spread(look, [(episode, teacher) for episode in episodes for teacher in TEACHERS])
        self.played += len(views)
        by_teacher = {teacher: views[n :: len(TEACHERS)] for n, teacher in enumerate(TEACHERS)}
        self.seen = seen_of([row for view in views for row in view[0]], [one for view in views for one in view[2]])
        self.teacher = max(TEACHERS, key=lambda teacher: fmean(view[3] for view in by_teacher[teacher]))
        best = by_teacher[self.teacher]
        rows, chosen = [row for view in best for row in view[0]], [one for view in best for one in view[1]]
        like = np.concatenate([np.zeros(len(TERM_NAMES)), imitate(rows, chosen, np.random.default_rng(self.seed))])
        zero = np.zeros(SIZE)
        return like if self.scores([like], episodes)[0] > 0 else zero

    def scores(self, candidates: Sequence[Floats], episodes: Sequence[Episode] | None = None) -> list[float]:
        """Per candidate, on average over episodes; the heuristic's is its share of requests within the SLO: 0 here."""
        episodes = episodes or self.episodes(self.budget.episodes)
        pairs = [(episode, weights_of(one)) for one in candidates for episode in episodes]
        judged = np.array(self.spread(judge, pairs)).reshape(len(candidates), len(episodes))
        self.played += len(pairs)
        base = [one.base["slo_met_share"] for one in episodes if one.base is not None]
        return [float(one) for one in (judged - base).mean(axis=1)]

    def episodes(self, count: int) -> list[Episode]:
        """Workloads in turn, else at random."""
        drawn = [
            draw(self.rng, self.traces, [self.workloads[n % len(self.workloads)]], self.budget.seconds, self.capacity)
            for n in range(count)
        ]
        self.played += count
        return self.spread(with_base, drawn)

    def exam(self, vector: Floats, rivals: Sequence[str]) -> dict[str, dict[str, float]]:
        """Workload -> policy -> score, on the time that training did not see: 16 instances at 90 % of capacity."""
        setting = Setting(self.traces, self.budget.seconds, EXAM_STALE_S, Part.SCORE)
        asked = [
            Episode(
                setting, Run(Condition(w, EXAM_FLEET, 0.9, 1), HEURISTIC, 0, 0.9 * self.capacity(w, EXAM_FLEET)), 3.0
            )
            for w in self.workloads
        ]
        episodes = self.spread(with_base, asked)
        pairs = [(episode, weights_of(vector)) for episode in episodes]
        ours = self.spread(judge, pairs)
        theirs = self.spread(judge_named, [(episode, rival) for episode in episodes for rival in rivals])
        scores = {w: {"learned": round(one, 5)} for w, one in zip(self.workloads, ours, strict=True)}
        for number, one in enumerate(theirs):
            scores[self.workloads[number // len(rivals)]][rivals[number % len(rivals)]] = round(one, 5)
        self.played += len(episodes) + len(pairs) + len(theirs)
        return scores

    def weights(self, vector: Floats, version: str, versions: dict[str, str], scores: Any) -> RouterWeights:
        came = Provenance(
            data=tuple(f"{name}, {Part.TRAIN.value[1]:.0%} of its time" for name in self.workloads),
            seed=self.seed,
            episodes=self.played,
            versions=versions,
            scores=scores,
            note=f"imitation of {self.teacher}, then cma, {len(self.curve)} generations",
        )
        return weights_of(vector, version=version, seen=self.seen, came=came)


__all__ = ["SIGMA", "TEACHERS", "Budget", "Point", "Trainer"]
