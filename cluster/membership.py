"""The life of one instance slot, as a pure state machine: events in, commands out. Owns the rules of who is alive.

A slot is a place for an instance; each process that fills it is one *incarnation*. Events name theirs, and late ones of
an earlier incarnation are ignored. At most one incarnation of a slot has a process at any time: a start is commanded
only where the former one is known to be gone. The states and what may follow each:
`shoal.cluster.member_states`.

Knows nothing of Ray, gRPC or clocks; the controller performs the commands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from shoal.cluster.member import (
    Begin,
    Command,
    Died,
    Drain,
    Emptied,
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
from shoal.cluster.member_states import LEAVING, NEXT, WITH_PROCESS, IllegalMove, move

S = InstanceState
Outcome = tuple[Slot, tuple[Command, ...]]


def _start(slot: Slot, now_s: float) -> Outcome:
    incarnation = slot.incarnation + 1
    fresh = replace(slot, incarnation=incarnation, address="", pid=0, step=0, stepping=False, killed_at_s=0.0)
    return move(fresh, S.STARTING, now_s, "process starting"), (StartInstance(incarnation),)


def _condemn(slot: Slot, now_s: float, reason: str) -> Outcome:
    killed = replace(move(slot, S.HUNG, now_s, reason), killed_at_s=now_s)
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
    return move(seen, S.READY, now_s, ""), ()


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
        return move(replace(slot, progress_s=now_s), S.READY, now_s, ""), ()
    return slot, ()


def _heartbeat_lost(slot: Slot, event: HeartbeatLost, now_s: float, _rules: Rules) -> Outcome:
    return (move(slot, S.FENCED, now_s, event.reason) if slot.state is S.READY else slot), ()


def _died(slot: Slot, event: Died | StartFailed, now_s: float, rules: Rules) -> Outcome:
    if slot.state not in WITH_PROCESS:
        return slot, ()
    gone = replace(slot, address="", pid=0, stepping=False)
    if slot.state in LEAVING:
        return move(gone, S.STOPPED, now_s, event.reason), ()
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
        return move(gone, S.QUARANTINED, now_s, words), ()
    return _retry(move(gone, S.DEAD, now_s, reason), now_s)


def _retry(slot: Slot, now_s: float) -> Outcome:
    if now_s < slot.retry_at_s:
        return slot, ()
    reason = slot.note
    slot, commands = _start(slot, now_s)
    return replace(slot, note=f"restarting after: {reason}"), commands


def _drain(slot: Slot, event: Drain, now_s: float, rules: Rules) -> Outcome:
    """What holds no requests leaves at once."""
    if slot.state in (S.READY, S.FENCED):
        return move(slot, S.DRAINING, now_s, "giving its requests away"), ()
    return _leave(slot, event, now_s, rules)


def _leave(slot: Slot, _event: Leave | Drain, now_s: float, _rules: Rules) -> Outcome:
    if slot.state in (S.DEAD, S.QUARANTINED):
        return move(slot, S.STOPPED, now_s, "not wanted"), ()
    if slot.state in (S.STOPPED, S.STOPPING) or (slot.state is S.DRAINING and isinstance(_event, Drain)):
        return slot, ()
    return _stop(slot, now_s, "asked to leave")


def _emptied(slot: Slot, _event: Emptied, now_s: float, _rules: Rules) -> Outcome:
    return _stop(slot, now_s, "empty") if slot.state is S.DRAINING else (slot, ())


def _stop(slot: Slot, now_s: float, note: str) -> Outcome:
    return move(slot, S.STOPPING, now_s, note), (StopInstance(slot.incarnation),)


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
        return move(slot, S.FENCED, now_s, f"no heartbeat for {rules.fence_after_s:g} s"), ()
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
    """What is still there then goes on elsewhere by fail-over."""
    if now_s - slot.since_s <= rules.drain_limit_s:
        return slot, ()
    return _stop(slot, now_s, f"not empty after {rules.drain_limit_s:g} s")


def _tick_stopping(slot: Slot, now_s: float, rules: Rules) -> Outcome:
    return _kill_again(slot, now_s, rules) if now_s - slot.since_s > rules.stop_timeout_s else (slot, ())


def _tick_dead(slot: Slot, now_s: float, _rules: Rules) -> Outcome:
    return _retry(slot, now_s)


_ON_TICK: dict[InstanceState, Callable[[Slot, float, Rules], Outcome]] = {
    S.STARTING: _tick_starting,
    S.READY: _tick_ready,
    S.FENCED: _tick_fenced,
    S.HUNG: _kill_again,
    S.DRAINING: _tick_draining,
    S.STOPPING: _tick_stopping,
    S.DEAD: _tick_dead,
}


_ON: dict[type[Event], Callable[[Slot, Any, float, Rules], Outcome]] = {
    Begin: _begin,
    Found: _found,
    Progress: _progress,
    Started: _started,
    StartFailed: _died,
    Heartbeat: _heartbeat,
    HeartbeatLost: _heartbeat_lost,
    Died: _died,
    Drain: _drain,
    Emptied: _emptied,
    Leave: _leave,
    Tick: _tick,
}


def _step(slot: Slot, event: Event, now_s: float, rules: Rules) -> Outcome:
    if not isinstance(event, Begin | Found | Drain | Leave | Tick) and event.incarnation != slot.incarnation:
        return slot, ()
    return _ON[type(event)](slot, event, now_s, rules)


def _visible(slot: Slot) -> tuple[object, ...]:
    return slot.id, slot.address, slot.state, slot.pid, slot.incarnation


def advance(slot: Slot, event: Event, now_s: float, rules: Rules = Rules()) -> Outcome:
    """The slot after the event, and what must be done. Raises IllegalMove only if this module is wrong."""
    after, commands = _step(slot, event, now_s, rules)
    if _visible(after) != _visible(slot):
        commands = (*commands, Publish())
    return after, commands


__all__ = [
    "LEAVING",
    "NEXT",
    "WITH_PROCESS",
    "Begin",
    "Command",
    "Died",
    "Drain",
    "Emptied",
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
