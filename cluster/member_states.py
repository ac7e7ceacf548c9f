"""The states of an instance slot and what may follow each. Pure; the table is the specification.

*ends* below stands for hung, dead, quarantined, stopping.

| state       | meaning                                                             | may become                    |
|-------------|---------------------------------------------------------------------|-------------------------------|
| stopped     | nobody wants it; no process                                         | starting, ready (found alive) |
| starting    | a process is being made: import, load, warm-up; silence is allowed  | ready, ends                   |
| ready       | heartbeats arrive and steps advance                                 | fenced, draining, ends        |
| fenced      | silent for 1.5 s; gets no new work, may rejoin                      | ready, draining, ends         |
| hung        | beyond rescue: killed, its end not yet seen                         | dead, quarantined, stopping   |
| dead        | no process; a start is due after a back-off                         | starting, stopped             |
| quarantined | no process; died too often, waits for a person                      | starting, stopped             |
| draining    | serves what it has; its requests are moved away; gets no new work   | stopping, stopped             |
| stopping    | empty, or out of time: told to leave                                | stopped                       |
"""

from __future__ import annotations

from dataclasses import replace

from shoal.cluster.member import InstanceState, Slot
from shoal.proto.errors import ServerFault

S = InstanceState
_ENDS = {S.HUNG, S.DEAD, S.QUARANTINED, S.STOPPING}
NEXT: dict[InstanceState, frozenset[InstanceState]] = {
    S.STOPPED: frozenset({S.STARTING, S.READY}),  # READY: found alive by a new controller
    S.STARTING: frozenset({S.READY, *_ENDS}),
    S.READY: frozenset({S.FENCED, S.DRAINING, *_ENDS}),
    S.FENCED: frozenset({S.READY, S.DRAINING, *_ENDS}),
    S.HUNG: frozenset({S.DEAD, S.QUARANTINED, S.STOPPING}),
    S.DEAD: frozenset({S.STARTING, S.STOPPED}),
    S.QUARANTINED: frozenset({S.STARTING, S.STOPPED}),
    S.DRAINING: frozenset({S.STOPPING, S.STOPPED}),
    S.STOPPING: frozenset({S.STOPPED}),
}
WITH_PROCESS = frozenset({S.STARTING, S.READY, S.FENCED, S.HUNG, S.DRAINING, S.STOPPING})
LEAVING = frozenset({S.DRAINING, S.STOPPING})


class IllegalMove(ServerFault):
    def __init__(self, slot: Slot, to: InstanceState) -> None:
        path = " > ".join(s.value for s in slot.story)
        super().__init__(f"{slot.id}: {slot.state.value} may not become {to.value}; its story: {path}")


def move(slot: Slot, to: InstanceState, now_s: float, note: str) -> Slot:
    if to not in NEXT[slot.state]:
        raise IllegalMove(slot, to)
    return replace(slot, state=to, since_s=now_s, note=note, story=(*slot.story, to)[-16:])


__all__ = ["LEAVING", "NEXT", "WITH_PROCESS", "IllegalMove", "move"]
