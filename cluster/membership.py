"""The life of one instance slot, as a pure state machine: events in, commands out. Owns the rules of who is alive.

A slot is a place for an instance; each process that fills it is one *incarnation*. Events name theirs, and late ones of
an earlier incarnation are ignored. At most one incarnation of a slot has a process at any time: a start is commanded
only where the former one is known to be gone. *ends* below stands for hung, dead, quarantined, draining.

| state       | meaning                                                             | may become                    |
|-------------|---------------------------------------------------------------------|-------------------------------|
| stopped     | nobody wants it; no process                                         | starting, ready (found alive) |
| starting    | a process is being made: import, load, warm-up; silence is allowed  | ready, ends                   |
| ready       | heartbeats arrive and steps advance                                 | fenced, ends                  |
| fenced      | silent for 1.5 s; gets no new work, may rejoin                      | ready, ends                   |
| hung        | beyond rescue: killed, its end not yet seen                         | dead, quarantined, draining   |
| dead        | no process; a start is due after a back-off                         | starting, stopped             |
| quarantined | no process; died too often, waits for a person                      | starting, stopped             |
| draining    | has been asked to finish and leave                                  | stopped                       |

Knows nothing of Ray, gRPC or clocks; the controller performs the commands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from shoal.cluster.member import (
    Begin,
    Command,
    Died,
    Event,
    Found,
    Heartbeat,
    HeartbeatLost,
    InstanceState,
    KillInstance,
    Leave,
    Progress,
    Publish,
    Rules,
    Slot,
    Started,
    StartFailed,
    StartInstance,
    StopInstance,
    Tick,
)
from shoal.proto.errors import ServerFault

S = InstanceState
_ENDS = {S.HUNG, S.DEAD, S.QUARANTINED, S.DRAINING}
NEXT: dict[InstanceState, frozenset[InstanceState]] = {
    S.STOPPED: frozenset({S.STARTING, S.READY}),  # READY: found alive by a new controller
    S.STARTING: frozenset({S.READY, *_ENDS}),
    S.READY: frozenset({S.FENCED, *_ENDS}),
    S.FENCED: frozenset({S.READY, *_ENDS}),
    S.HUNG: frozenset({S.DEAD, S.QUARANTINED, S.DRAINING}),
    S.DEAD: frozenset({S.STARTING, S.STOPPED}),
    S.QUARANTINED: frozenset({S.STARTING, S.STOPPED}),
    S.DRAINING: frozenset({S.STOPPED}),
}
WITH_PROCESS = frozenset({S.STARTING, S.READY, S.FENCED, S.HUNG, S.DRAINING})


class IllegalMove(ServerFault):
    def __init__(self, slot: Slot, to: InstanceState) -> None:
        path = " > ".join(s.value for s in slot.story)
        super().__init__(f"{slot.id}: {slot.state.value} may not become {to.value}; its story: {path}")


Outcome = tuple[Slot, tuple[Command, ...]]


def _move(slot: Slot, to: InstanceState, now_s: float, note: str) -> Slot:
    if to not in NEXT[slot.state]:
        raise IllegalMove(slot, to)
    return replace(slot, state=to, since_s=now_s, note=note, story=(*slot.story, to)[-16:])


def _start(slot: Slot, now_s: float) -> Outcome:
    incarnation = slot.incarnation + 1
    fresh = replace(slot, incarnation=incarnation, address="", pid=0, step=0, stepping=False, killed_at_s=0.0)
    return _move(fresh, S.STARTING, now_s, "process starting"), (StartInstance(incarnation),)


def _condemn(slot: Slot, now_s: float, reason: str) -> Outcome:
    killed = replace(_move(slot, S.HUNG, now_s, reason), killed_at_s=now_s)
    return killed, (KillInstance(slot.incarnation, reason),)


def _begin(slot: Slot, _event: Begin, now_s: float, _rules: Rules) -> Outcome:
    if slot.state in WITH_PROCESS:
        return slot, ()
    return _start(replace(slot, streak=0, deaths_s=()), now_s)


def _found(slot: Slot, event: Found, now_s: float, _rules: Rules) -> Outcome:
    if slot.state is not S.STOPPED:
        return slot, ()
    seen = replace(
        slot, incarnation=event.incarnation, address=event.address, pid=event.pid, heartbeat_s=now_s, progress_s=now_s
    )
    return _move(seen, S.READY, now_s, ""), ()


def _progress(slot: Slot, event: Progress, _now_s: float, _rules: Rules) -> Outcome:
    return (replace(slot, note=event.note) if slot.state is S.STARTING else slot), ()


def _started(slot: Slot, event: Started, now_s: float, _rules: Rules) -> Outcome:
    if slot.state is not S.STARTING:
        return slot, ()
    return replace(
        slot, address=event.address, pid=event.pid, heartbeat_s=now_s, note="serving, first heartbeat awaited"
    ), ()


def _heartbeat(slot: Slot, event: Heartbeat, now_s: float, _rules: Rules) -> Outcome:
    moved = event.step != slot.step or not event.stepping or not slot.stepping
    slot = replace(
        slot,
        heartbeat_s=now_s,
        step=event.step,
        stepping=event.stepping,
        predicted_step_s=event.predicted_step_s,
        progress_s=now_s if moved else slot.progress_s,
    )
    if slot.state is S.FENCED or (slot.state is S.STARTING and slot.address):
        return _move(replace(slot, progress_s=now_s), S.READY, now_s, ""), ()
    return slot, ()


def _heartbeat_lost(slot: Slot, event: HeartbeatLost, now_s: float, _rules: Rules) -> Outcome:
    return (_move(slot, S.FENCED, now_s, event.reason) if slot.state is S.READY else slot), ()


def _died(slot: Slot, event: Died | StartFailed, now_s: float, rules: Rules) -> Outcome:
    if slot.state not in WITH_PROCESS:
        return slot, ()
    gone = replace(slot, address="", pid=0, stepping=False)
    if slot.state is S.DRAINING:
        return _move(gone, S.STOPPED, now_s, event.reason), ()
    # One that was condemned says why it was killed, not that it was.
    reason = slot.note if slot.state is S.HUNG else event.reason
    stable = slot.state is S.READY and now_s - slot.since_s >= rules.stable_s
    streak = 1 if stable else slot.streak + 1
    recent = (*(t for t in slot.deaths_s if now_s - t < rules.quarantine_window_s), now_s)[-rules.quarantine_deaths :]
    gone = replace(
        gone, deaths=slot.deaths + 1, deaths_s=recent, streak=streak, retry_at_s=now_s + rules.backoff_s(streak)
    )
    if len(recent) >= rules.quarantine_deaths:
        words = f"{len(recent)} deaths in {rules.quarantine_window_s:g} s; the last: {reason}"
        return _move(gone, S.QUARANTINED, now_s, words), ()
    return _retry(_move(gone, S.DEAD, now_s, reason), now_s)


def _retry(slot: Slot, now_s: float) -> Outcome:
    if now_s < slot.retry_at_s:
        return slot, ()
    reason = slot.note
    slot, commands = _start(slot, now_s)
    return replace(slot, note=f"restarting after: {reason}"), commands


def _leave(slot: Slot, _event: Leave, now_s: float, _rules: Rules) -> Outcome:
    if slot.state in (S.DEAD, S.QUARANTINED):
        return _move(slot, S.STOPPED, now_s, "not wanted"), ()
    if slot.state in (S.STOPPED, S.DRAINING):
        return slot, ()
    return _move(slot, S.DRAINING, now_s, "asked to leave"), (StopInstance(slot.incarnation),)


def _tick(slot: Slot, _event: Tick, now_s: float, rules: Rules) -> Outcome:
    return _ON_TICK.get(slot.state, _nothing)(slot, now_s, rules)


def _nothing(slot: Slot, _now_s: float, _rules: Rules) -> Outcome:
    return slot, ()


def _tick_starting(slot: Slot, now_s: float, rules: Rules) -> Outcome:
    if slot.address and now_s - slot.heartbeat_s > rules.give_up_after_s:
        return _condemn(slot, now_s, f"started, but sent no heartbeat in {rules.give_up_after_s:g} s")
    if now_s - slot.since_s > rules.start_timeout_s:
        return _condemn(slot, now_s, f"did not start in {rules.start_timeout_s:g} s")
    return slot, ()


def _tick_ready(slot: Slot, now_s: float, rules: Rules) -> Outcome:
    silent_s = now_s - slot.heartbeat_s
    if silent_s > rules.fence_after_s:
        return _move(slot, S.FENCED, now_s, f"no heartbeat for {rules.fence_after_s:g} s"), ()
    allowed_s = max(rules.hang_s, rules.hang_factor * slot.predicted_step_s)
    if slot.stepping and now_s - slot.progress_s > allowed_s:
        return _condemn(slot, now_s, f"step {slot.step + 1} did not end in {allowed_s:.1f} s")
    return slot, ()


def _tick_fenced(slot: Slot, now_s: float, rules: Rules) -> Outcome:
    if now_s - slot.since_s > rules.give_up_after_s:
        return _condemn(slot, now_s, f"no heartbeat for {rules.give_up_after_s:g} s")
    return slot, ()


def _kill_again(slot: Slot, now_s: float, rules: Rules) -> Outcome:
    if now_s - slot.killed_at_s <= rules.kill_again_s:
        return slot, ()
    return replace(slot, killed_at_s=now_s), (KillInstance(slot.incarnation, slot.note),)


def _tick_draining(slot: Slot, now_s: float, rules: Rules) -> Outcome:
    return _kill_again(slot, now_s, rules) if now_s - slot.since_s > rules.drain_timeout_s else (slot, ())


def _tick_dead(slot: Slot, now_s: float, _rules: Rules) -> Outcome:
    return _retry(slot, now_s)


_ON_TICK: dict[InstanceState, Callable[[Slot, float, Rules], Outcome]] = {
    S.STARTING: _tick_starting,
    S.READY: _tick_ready,
    S.FENCED: _tick_fenced,
    S.HUNG: _kill_again,
    S.DRAINING: _tick_draining,
    S.DEAD: _tick_dead,
}


def _step(slot: Slot, event: Event, now_s: float, rules: Rules) -> Outcome:
    match event:
        case Begin():
            return _begin(slot, event, now_s, rules)
        case Found():
            return _found(slot, event, now_s, rules)
        case Leave():
            return _leave(slot, event, now_s, rules)
        case Tick():
            return _tick(slot, event, now_s, rules)
    if event.incarnation != slot.incarnation:
        return slot, ()
    match event:
        case Progress():
            return _progress(slot, event, now_s, rules)
        case Started():
            return _started(slot, event, now_s, rules)
        case Heartbeat():
            return _heartbeat(slot, event, now_s, rules)
        case HeartbeatLost():
            return _heartbeat_lost(slot, event, now_s, rules)
        case Died() | StartFailed():
            return _died(slot, event, now_s, rules)


def _visible(slot: Slot) -> tuple[object, ...]:
    return slot.id, slot.address, slot.state, slot.pid, slot.incarnation


def advance(slot: Slot, event: Event, now_s: float, rules: Rules = Rules()) -> Outcome:
    """The slot after the event, and what must be done. Raises IllegalMove only if this module is wrong."""
    after, commands = _step(slot, event, now_s, rules)
    if _visible(after) != _visible(slot):
        commands = (*commands, Publish())
    return after, commands


__all__ = [
    "NEXT",
    "WITH_PROCESS",
    "Begin",
    "Command",
    "Died",
    "Event",
    "Found",
    "Heartbeat",
    "HeartbeatLost",
    "IllegalMove",
    "InstanceState",
    "KillInstance",
    "Leave",
    "Outcome",
    "Progress",
    "Publish",
    "Rules",
    "Slot",
    "StartFailed",
    "StartInstance",
    "Started",
    "StopInstance",
    "Tick",
    "advance",
]
