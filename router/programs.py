"""Which calls belong to one program (an agent, a workflow of many stages), and what that says of its next call.

Owns the table of one frontend's programs: where the KV of each is (its *home*: where its latest call was placed), how
much service it has attained, and whether it is expected back. A program is *at rest* between two calls, while a tool
runs; it is expected back until it has been away for `PATIENCE` times the usual pause, which is learned from those that
came back. The KV of programs at rest is in nobody's load report, yet to admit more work than fits beside it throws it
out just before it is needed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from shoal.router.arrays import Floats
from shoal.router.contract import InstanceInfo, Placement, RouteRequest

MAX_PROGRAMS = 1 << 16
PATIENCE = 3.0
FIRST_PAUSE_S = 10.0  # expected before any was seen
LEARNED = 0.02  # weight of one pause


@dataclass(slots=True)
class Program:
    """`own_tokens`: context that nobody else shares. `attained_tokens`: service, prompts less what was cached and
    answers. `rests_since_s`: since its last open call ended."""

    began_s: float
    home: str = ""
    shared_tokens: int = 0
    own_tokens: int = 0
    calls: int = 0
    attained_tokens: int = 0
    open: set[str] = field(default_factory=set)
    rests_since_s: float = 0.0


@dataclass(slots=True)
class _Resting:
    programs: int = 0
    tokens: int = 0


class Programs:
    """Sole owner of the table. Names are unique across tenants: whoever makes them sees to that."""

    def __init__(self) -> None:
        self._programs: OrderedDict[str, Program] = OrderedDict()  # by latest fact
        self._resting: OrderedDict[str, None] = OrderedDict()  # by when they came to rest
        self._at: dict[str, _Resting] = {}
        self.pause_s = FIRST_PAUSE_S

    def __getitem__(self, name: str) -> Program:
        return self._programs[name]

    def __len__(self) -> int:
        return len(self._programs)

    # -- facts

    def known(self, request: RouteRequest) -> RouteRequest:
        """With what its program says of it: when that began, and how many calls came before."""
        program = self._programs.get(request.program)
        if program is None:
            return request
        return replace(request, began_s=program.began_s, traits=replace(request.traits, turn=program.calls))

    def placed(self, request: RouteRequest, placement: Placement, now_s: float) -> None:
        """Again after a hand-over or a lost instance."""
        if not request.program:
            return
        program = self._programs.get(request.program)
        if program is None:
            program = Program(request.arrived_s, shared_tokens=placement.cached_tokens)
            self._programs[request.program] = program
            if len(self._programs) > MAX_PROGRAMS:
                self._wake(next(iter(self._programs)))
                self._programs.popitem(last=False)
        elif not program.open and self._wake(request.program):
            self.pause_s += LEARNED * (request.arrived_s - program.rests_since_s - self.pause_s)
        self._programs.move_to_end(request.program)
        if request.request_id not in program.open:
            program.open.add(request.request_id)
            program.calls += 1
            program.attained_tokens += request.context_tokens - placement.cached_tokens
        program.home = placement.instance

    def ended(self, request: RouteRequest, new_tokens: int, now_s: float) -> None:
        program = self._programs.get(request.program)
        if program is None or request.request_id not in program.open:
            return
        program.open.discard(request.request_id)
        program.attained_tokens += new_tokens
        own_tokens = request.context_tokens + new_tokens - program.shared_tokens
        program.own_tokens = max(program.own_tokens, own_tokens)
        if not program.open:
            self._rest(request.program, program, now_s)

    def leave(self, instance: str) -> None:
        """Its caches are gone."""
        for program in self._programs.values():
            if program.home == instance:
                program.home = ""
        self._at.pop(instance, None)

    # -- what is asked

    def home(self, name: str) -> str:
        """'' : it has none."""
        program = self._programs.get(name)
        return program.home if program is not None else ""

    def resting(self, infos: Iterable[InstanceInfo], now_s: float) -> tuple[Floats, Floats]:
        """By row: programs at rest there that are expected back, and the tokens of KV that they will want again."""
        while self._resting:
            name = next(iter(self._resting))
            if now_s - self._programs[name].rests_since_s <= PATIENCE * self.pause_s:
                break
            self._wake(name)
        at = [self._at.get(info.id, _NOBODY) for info in infos]
        return np.array([each.programs for each in at], float), np.array([each.tokens for each in at], float)

    def check(self) -> None:
        for instance, resting in self._at.items():
            here = [self._programs[name] for name in self._resting if self._programs[name].home == instance]
            assert (resting.programs, resting.tokens) == (len(here), sum(p.own_tokens for p in here)), instance
        assert all(not self._programs[name].open for name in self._resting)

    def _rest(self, name: str, program: Program, now_s: float) -> None:
        program.rests_since_s = now_s
        if not program.home:
            return
        self._resting[name] = None
        at = self._at.setdefault(program.home, _Resting())
        at.programs, at.tokens = at.programs + 1, at.tokens + program.own_tokens

    def _wake(self, name: str) -> bool:
        """It is back, or no longer expected. False: it did not rest."""
        if name not in self._resting:
            return False
        del self._resting[name]
        program = self._programs[name]
        if program.home in self._at:
            at = self._at[program.home]
            at.programs, at.tokens = at.programs - 1, at.tokens - program.own_tokens
        return True


_NOBODY = _Resting()

__all__ = ["PATIENCE", "Program", "Programs"]
