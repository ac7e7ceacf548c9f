"""Guard rails of learned weights: reasons not to let them decide, each with a public failure behind it. Pure functions,
and `Rails`, which remembers what they need. While a rail holds, the configured policy decides; nobody fails for it.

  RANGE     a feature lies outside what training saw (see `residual`): this decision only
  SHARE     its choice has had more than MOST_SHARE / N of the last placements: this decision only
  DEADLINE  decisions take longer than a millisecond
  DRIFT     requests are not like those of the training: the mean of one of their numbers is DRIFT_DEVIATIONS away
  FROZEN    a feature that varied in training is the same in all recent decisions: its source has stopped
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from enum import Enum

import numpy as np

from shoal.router.arrays import Floats
from shoal.router.features import FEATURES, REQUEST
from shoal.router.weights import RouterWeights, Seen

WINDOW = 256  # decisions
MOST_SHARE = 2.0
DEADLINE_S, LATE_SHARE = 1e-3, 0.1
DRIFT_DEVIATIONS = 2.0
FROZEN_DEVIATION = 1e-9
FEEDS = frozenset({"batch", "context", "full", "slow"})  # those that move under any load; nothing queued is no sign


class Rail(Enum):
    RANGE = "range"
    SHARE = "share"
    DEADLINE = "deadline"
    DRIFT = "drift"
    FROZEN = "frozen"


def late(took_s: Floats) -> bool:
    """More than LATE_SHARE of the decisions passed the deadline: one that the system held up is no reason."""
    return bool(np.mean(took_s > DEADLINE_S) > LATE_SHARE)


def drifted(rows: Floats, seen: Mapping[str, Seen]) -> str | None:
    """Which number of the requests is far from where it was; `rows` has one column per name in REQUEST."""
    for name, mean in zip(REQUEST, rows.mean(axis=0), strict=True):
        known = seen.get(name)
        if known is not None and abs(mean - known.mean) > DRIFT_DEVIATIONS * max(known.deviation, 1e-6):
            return name
    return None


def frozen(rows: Floats, seen: Mapping[str, Seen]) -> str | None:
    """Which of FEEDS stands still; `rows` has, per decision, the deviation of each feature over the candidates and its
    mean over them, side by side."""
    spread, means = np.split(rows, 2, axis=1)
    still = (np.ptp(spread, axis=0) <= FROZEN_DEVIATION) & (np.ptp(means, axis=0) <= FROZEN_DEVIATION)
    for name, stands in zip(FEATURES, still, strict=True):
        if name in FEEDS and stands and name in seen and seen[name].deviation > FROZEN_DEVIATION:
            return name
    return None


class Rails:
    """Owns what was lately seen and chosen, and which rail holds. Looks at the windows once per WINDOW decisions; what
    holds then holds until the next look."""

    def __init__(self, weights: RouterWeights) -> None:
        self.weights = weights
        self.hits: Counter[Rail] = Counter()
        self.holding: Rail | None = None
        self.why = ""
        self._chosen: deque[str] = deque()
        self._shares: Counter[str] = Counter()
        self._requests: list[tuple[float, ...]] = []
        self._features: list[Floats] = []
        self._took_s: list[float] = []

    def saw(self, request: tuple[float, ...], rows: Floats) -> None:
        """What one decision was made of: see `features`."""
        self._requests.append(request)
        self._features.append(np.concatenate([rows.std(axis=0), rows.mean(axis=0)]))
        if len(self._requests) >= WINDOW:
            self._look()

    def took(self, took_s: float) -> None:
        self._took_s.append(took_s)
        if len(self._took_s) >= WINDOW:
            if late(np.array(self._took_s)):
                self._hold(Rail.DEADLINE, f"over {LATE_SHARE:.0%} of {WINDOW} decisions took more than a millisecond")
            elif self.holding is Rail.DEADLINE:
                self.holding = None
            self._took_s.clear()

    def hogs(self, instance: str, instances: int) -> bool:
        """Would one more placement there be too many? A full window is needed, and somebody else to choose."""
        most = MOST_SHARE / instances * WINDOW
        return len(self._chosen) == WINDOW and most < WINDOW and self._shares[instance] >= most

    def placed(self, instance: str) -> None:
        self._chosen.append(instance)
        self._shares[instance] += 1
        if len(self._chosen) > WINDOW:
            self._shares[self._chosen.popleft()] -= 1

    def _look(self) -> None:
        seen = self.weights.seen
        if name := drifted(np.array(self._requests), seen):
            self._hold(Rail.DRIFT, f"{name} of the last {WINDOW} requests is not what it was in training")
        elif name := frozen(np.array(self._features), seen):
            self._hold(Rail.FROZEN, f"{name} has not moved in {WINDOW} decisions")
        elif self.holding in (Rail.DRIFT, Rail.FROZEN):
            self.holding = None
        self._requests.clear()
        self._features.clear()

    def _hold(self, rail: Rail, why: str) -> None:
        self.holding, self.why = rail, why


__all__ = ["MOST_SHARE", "WINDOW", "Rail", "Rails", "drifted", "frozen", "late"]
