"""How new router weights come into use: nobody, then watched, then a share of the requests, then nearly all; back at
once when goodput suffers. Pure: an event in, the next state out.

  stage     who decides                                     goes on to
  OFF       the configured policy                           SHADOW (published)
  SHADOW    the configured policy; weights are asked too    CANARY
  CANARY    weights, for `share` of the requests            CANARY (another share), BACK
  BACK      the configured policy, until new weights come   SHADOW (published)

Every stage goes to OFF when weights are withdrawn. At most MOST_SHARE of the requests is ever given to weights: the
rest stays with the configured policy, so that there is always something to compare with. Goodput is the share of served
requests that met the SLO. The weights lose when theirs is lower by LEAST_LOSS and by DEVIATIONS standard errors of the
difference, with at least LEAST_SERVED requests on both sides. Counts are halved when they reach KEPT: what went well
last week does not outvote today.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from math import sqrt
from zlib import crc32

LEAST_SERVED, KEPT = 50, 2000
LEAST_LOSS, DEVIATIONS = 0.02, 3.0
MOST_SHARE = 0.95


class Stage(Enum):
    OFF = "off"
    SHADOW = "shadow"
    CANARY = "canary"
    BACK = "back"


NEXT = {
    Stage.OFF: {Stage.SHADOW},
    Stage.SHADOW: {Stage.SHADOW, Stage.CANARY, Stage.OFF},
    Stage.CANARY: {Stage.SHADOW, Stage.CANARY, Stage.BACK, Stage.OFF},
    Stage.BACK: {Stage.SHADOW, Stage.OFF},
}


class Arm(Enum):
    """Who decides for a request."""

    CONTROL = "control"
    CANARY = "canary"


@dataclass(frozen=True, slots=True)
class Goodput:
    served: float = 0.0
    met: float = 0.0

    @property
    def share(self) -> float:
        return self.met / self.served if self.served else 0.0

    def add(self, met: bool) -> Goodput:
        kept = 0.5 if self.served >= KEPT else 1.0
        return Goodput(self.served * kept + 1, self.met * kept + met)


@dataclass(frozen=True, slots=True)
class Rollout:
    """`why` is in words, for people: who put it into this stage."""

    stage: Stage = Stage.OFF
    version: str = ""
    share: float = 0.0
    control: Goodput = Goodput()
    canary: Goodput = Goodput()
    why: str = ""

    def arm(self, request_id: str) -> Arm:
        """The same for every frontend and every time it is asked."""
        if self.stage is not Stage.CANARY:
            return Arm.CONTROL
        return Arm.CANARY if crc32(request_id.encode()) < self.share * 2**32 else Arm.CONTROL


def publish(rollout: Rollout, version: str) -> Rollout:
    """New weights are watched first, whatever was before."""
    return replace(_move(rollout, Stage.SHADOW), version=version, why="published")


def canary(rollout: Rollout, share: float) -> Rollout:
    """Raises IllegalMove unless weights are there that were not rolled back. Raising the share keeps the counts."""
    moved = _move(rollout, Stage.CANARY, fresh=rollout.stage is not Stage.CANARY)
    share = min(max(share, 0.0), MOST_SHARE)
    return replace(moved, share=share, why=f"{share:.0%} of the requests")


def roll_back(rollout: Rollout, why: str) -> Rollout:
    """Of what decides for anybody; what does not stays as it is."""
    return replace(_move(rollout, Stage.BACK, fresh=False), share=0.0, why=why) if _decides(rollout) else rollout


def withdraw(rollout: Rollout) -> Rollout:
    return rollout if rollout.stage is Stage.OFF else replace(_move(rollout, Stage.OFF), version="", why="withdrawn")


def served(rollout: Rollout, arm: Arm, met: bool) -> Rollout:
    """One request has ended. Goes back by itself when goodput says so."""
    if not _decides(rollout):
        return rollout
    one = getattr(rollout, arm.value).add(met)
    counted = replace(rollout, **{arm.value: one})
    lost = loss(counted)
    return roll_back(counted, f"goodput {lost:.1%} below the configured policy's") if lost else counted


def loss(rollout: Rollout) -> float:
    """How much lower the goodput of the weights is, if that is beyond doubt; else 0."""
    control, treated = rollout.control, rollout.canary
    if min(control.served, treated.served) < LEAST_SERVED:
        return 0.0
    lost = control.share - treated.share
    error = sqrt(sum(max(a.share * (1 - a.share), 1 / a.served) / a.served for a in (control, treated)))
    return lost if lost >= max(LEAST_LOSS, DEVIATIONS * error) else 0.0


def _decides(rollout: Rollout) -> bool:
    return rollout.stage is Stage.CANARY


class IllegalMove(ValueError):
    """A stage that cannot follow."""


def _move(rollout: Rollout, to: Stage, *, fresh: bool = True) -> Rollout:
    """`fresh`: counts begin anew."""
    if to not in NEXT[rollout.stage]:
        raise IllegalMove(f"{rollout.stage.value} cannot become {to.value}: {rollout.why or 'no weights'}")
    before = replace(rollout, control=Goodput(), canary=Goodput(), share=0.0) if fresh else rollout
    return replace(before, stage=to)


__all__ = [
    "MOST_SHARE",
    "NEXT",
    "Arm",
    "Goodput",
    "IllegalMove",
    "Rollout",
    "Stage",
    "canary",
    "loss",
    "publish",
    "roll_back",
    "served",
    "withdraw",
]
