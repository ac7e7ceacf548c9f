"""The simulator as a gymnasium environment, for other people's algorithms: one step is one placement.

`Placing.reset` begins an episode; an observation is one row of `router.features` per instance; an action is the row to
place on; the reward of a step is what the requests that have ended since then say: 1 within the SLO, less LATENCY x
their end-to-end time in units of the heuristic's mean. The simulation waits in a thread of its own while the agent
thinks; it ends with the episode, or by `close`.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue
from random import Random
from typing import Any

import gymnasium
import numpy as np

from shoal.bench.policy_grid import config_of
from shoal.bench.sim.build import build
from shoal.bench.sim.results import Slo
from shoal.bench.sim.step_times import step_time
from shoal.bench.train.episode import HEURISTIC, LATENCY, Episode, with_base
from shoal.router.arrays import Floats
from shoal.router.features import FEATURES, features
from shoal.router.filters import STANDARD
from shoal.router.place import Policy
from shoal.router.profile import build_policy
from shoal.router.snapshot import Question


class _Closed(Exception):
    """The agent has left: ends the simulation's thread."""


class Placing(gymnasium.Env[Floats, int]):
    """Sole owner of one simulation at a time. `episode` says which; the number of instances never changes in it."""

    def __init__(self, episode: Episode) -> None:
        self.episode = episode if episode.base is not None else with_base(episode)
        rows = episode.run.condition.instances
        self.action_space = gymnasium.spaces.Discrete(rows)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (rows, len(FEATURES)), np.float64)
        self._asked: SimpleQueue[Floats | None] = SimpleQueue()
        self._told: SimpleQueue[int | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        super().reset(seed=seed)
        self.close()
        run = self.episode.run if seed is None else self.episode.run._replace(seed=seed)
        config = config_of(self.episode.setting, run).model_copy(update={"overhead_ms": self.episode.overhead_ms})
        heuristic = build_policy(HEURISTIC)
        policy = Policy("agent", STANDARD, {"agent": self._observe}, {"agent": 1.0}, self._pick)
        self._heuristic, self._counted = heuristic, 0
        self._slo = Slo(step_time(config.step_time, form=config.form, overhead_ms=config.overhead_ms))
        self._simulation = build(config, policy)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._last = self._next()
        return self._last, {}

    def step(self, action: int) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        self._told.put(int(action))
        rows = self._asked.get()
        over = rows is None
        self._last = self._last if rows is None else rows
        return self._last, self._reward(), over, False, {}

    def close(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            self._told.put(None)
            self._thread.join()
        self._asked, self._told, self._thread = SimpleQueue(), SimpleQueue(), None

    def _next(self) -> Floats:
        rows = self._asked.get()
        if rows is None:
            raise RuntimeError("an episode without a request")
        return rows

    def _run(self) -> None:
        try:
            self._simulation.run()
        except _Closed:
            return
        self._asked.put(None)

    def _observe(self, question: Question) -> Floats:
        prices: Floats = np.zeros(len(question.members))
        for _, scorer, weight in self._heuristic.asked:
            prices = prices + weight * scorer(question)
        self._rows = features(question, prices)
        return prices

    def _pick(self, totals: Floats, rng: Random) -> int:
        """Where the action names none of those that may serve it, the heuristic's choice stands."""
        self._asked.put(self._rows)
        action = self._told.get()
        if action is None:
            raise _Closed
        return action if action < len(totals) else int(totals.argmin())

    def _reward(self) -> float:
        results, base = self._simulation.results, self.episode.base
        assert base is not None
        ended = len(results.ids)
        if ended == self._counted:
            return 0.0
        met = self._slo.met(results)[self._counted :]
        times_ms = results.latency_s[self._counted :] * 1e3
        self._counted = ended
        return float(met.sum() - LATENCY * times_ms.sum() / max(base["e2e_ms_mean"], 1e-3))


__all__ = ["Placing"]
