"""Who decides for each request of one frontend: the configured policy, or learned weights as far as their rollout and
the guard rails let them. Pure: the caller brings requests, times, outcomes and what the controller wants.

Without weights it is the configured policy and nothing else. Owns its share of the rollout: every frontend counts its
own requests and goes back by itself; `tripped` is what the others should hear.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from random import Random

import numpy as np

from shoal.proto.errors import InvalidArgument
from shoal.router import rollout as r
from shoal.router.contract import Decision, Placement, RouteRequest
from shoal.router.features import features, of_request
from shoal.router.place import OUT_OF_RANGE, Policy, answer, fitting
from shoal.router.profile import learned_policy
from shoal.router.rails import Rail, Rails
from shoal.router.rollout import Arm, Rollout, Stage
from shoal.router.snapshot import Question
from shoal.router.view import ClusterView
from shoal.router.weights import RouterWeights, read_weights

LOOKED_AT = 4  # one of so many decisions goes into the windows of the rails


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the controller wants; each act of people has the next `serial`. `raw`: a weights file."""

    serial: int
    stage: Stage
    raw: bytes = b""
    share: float = 0.0
    why: str = ""


class Pilot:
    """Sole owner of one frontend's rollout and rails. `asked` counts what weights were asked and how often they agreed,
    in shadow; `refused`: why the newest weights file was not taken."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.rollout = Rollout()
        self.learned: Policy | None = None
        self.rails: Rails | None = None
        self.asked: Counter[str] = Counter()
        self.decided: Counter[str] = Counter()
        self.refused = ""
        self.tripped = ""
        self.wanted = Wanted(0, Stage.OFF)
        self._arms: dict[str, Arm] = {}
        self._decisions = 0

    # What the controller wants

    def follow(self, wanted: Wanted) -> None:
        """A weights file that is not believed changes nothing but `refused`."""
        if wanted == self.wanted:
            return
        self.wanted, self.tripped = wanted, ""
        match wanted.stage:
            case Stage.OFF:
                self.rollout, self.learned, self.rails = r.withdraw(self.rollout), None, None
            case Stage.BACK:
                self.rollout = r.roll_back(self.rollout, wanted.why)
            case Stage.SHADOW | Stage.CANARY if self._take(wanted):
                if wanted.stage is Stage.CANARY:
                    self.rollout = r.canary(self.rollout, wanted.share)

    def _take(self, wanted: Wanted) -> bool:
        try:
            weights = read_weights(wanted.raw)
        except InvalidArgument as exc:
            self.refused = str(exc)
            return False
        self.refused = ""
        if weights != self.weights or wanted.stage is Stage.SHADOW or self.rollout.stage is not Stage.CANARY:
            self.learned, self.rails = learned_policy(weights), Rails(weights)
            self.rollout = r.publish(self.rollout, weights.version)
        return True

    @property
    def weights(self) -> RouterWeights | None:
        return self.rails.weights if self.rails else None

    # Decisions

    def place(self, request: RouteRequest, view: ClusterView, now_s: float, rng: Random) -> Decision:
        asked = view.question(request, now_s)
        if self.learned is None or self.rails is None:
            return answer(asked, self.policy, rng)
        arm = self.rollout.arm(request.request_id)
        if arm is Arm.CANARY:
            decision = self._steer(asked, self.learned, self.rails, rng)
        else:
            decision = answer(asked, self.policy, rng)
            if self.rollout.stage is Stage.SHADOW:
                self._watch(asked, decision, self.learned, self.rails, rng)
        if isinstance(decision, Placement):
            self._arms[request.request_id] = arm
            self.decided[arm.value] += 1
        return decision

    def _steer(self, asked: Question, learned: Policy, rails: Rails, rng: Random) -> Decision:
        held, why = rails.holding, rails.why  # looking may let go of it
        self._look(asked, learned, rails)
        if held is not None:
            return self._held(asked, rails, held, why, rng)
        decision = answer(asked, learned, rng)
        if not isinstance(decision, Placement):
            return decision
        if decision.rail == OUT_OF_RANGE:
            return self._held(asked, rails, Rail.RANGE, decision.rail, rng)
        if rails.hogs(decision.instance, len(asked.members)):
            return self._held(asked, rails, Rail.SHARE, f"{decision.instance} has had too large a share", rng)
        rails.placed(decision.instance)
        return decision

    def _held(self, asked: Question, rails: Rails, rail: Rail, why: str, rng: Random) -> Decision:
        """The configured policy decides, and the reason is kept."""
        rails.hits[rail] += 1
        decision = answer(asked, self.policy, rng)
        if not isinstance(decision, Placement):
            return decision
        rails.placed(decision.instance)
        return replace(decision, rail=f"{rail.value}: {why}")

    def _watch(self, asked: Question, decision: Decision, learned: Policy, rails: Rails, rng: Random) -> None:
        """In shadow: what would they have said? Their choice is no placement, but all that rails look at is seen."""
        self._look(asked, learned, rails)
        if isinstance(decision, Placement):
            theirs = answer(asked, learned, rng)
            self.asked["asked"] += 1
            if isinstance(theirs, Placement):
                self.asked["agreed"] += theirs.instance == decision.instance
                if theirs.rail:
                    rails.hits[Rail.RANGE] += 1

    def _look(self, asked: Question, learned: Policy, rails: Rails) -> None:
        self._decisions += 1
        if self._decisions % LOOKED_AT == 0 and len((among := fitting(asked, learned)).members):
            rails.saw(of_request(asked), features(among, np.ones(len(among.members))))

    # What became of it

    def took(self, took_s: float) -> None:
        if self.rails is not None:
            self.rails.took(took_s)

    def ended(self, request_id: str, met: bool | None) -> None:
        """`met`: the SLO; None: it was not served, by no fault of its placement."""
        arm = self._arms.pop(request_id, None)
        if arm is None or met is None:
            return
        before, self.rollout = self.rollout, r.served(self.rollout, arm, met)
        if before.stage is Stage.CANARY and self.rollout.stage is Stage.BACK:
            self.tripped = self.rollout.why

    def counts(self) -> dict[str, float]:
        """What each arm decided and how it did, what shadow showed, and what the rails held back."""
        goodput = {arm.value: getattr(self.rollout, arm.value) for arm in Arm}
        return {
            **{f"decided_{arm}": float(number) for arm, number in self.decided.items()},
            **{f"served_{arm}": one.served for arm, one in goodput.items()},
            **{f"met_{arm}": one.met for arm, one in goodput.items()},
            **{f"shadow_{name}": float(number) for name, number in self.asked.items()},
            **{f"rail_{rail.value}": float(n) for rail, n in (self.rails.hits if self.rails else {}).items()},
        }


__all__ = ["LOOKED_AT", "Pilot", "Wanted"]
