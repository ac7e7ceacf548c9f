"""The words of membership: states of an instance slot, what may happen to it, what is commanded, what is known of it.

Pure data. See `shoal.cluster.membership` for the machine that connects them and for what each state means.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class InstanceState(Enum):
    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    FENCED = "fenced"
    HUNG = "hung"
    DEAD = "dead"
    QUARANTINED = "quarantined"
    DRAINING = "draining"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Rules:
    """Spans in seconds. `streak` counts deaths in a row, without a `stable_s` of being ready in between."""

    fence_after_s: float = 1.5
    give_up_after_s: float = 30.0
    hang_s: float = 5.0
    hang_factor: float = 10.0
    start_timeout_s: float = 600.0
    drain_limit_s: float = 60.0
    stop_timeout_s: float = 30.0
    kill_again_s: float = 5.0
    first_backoff_s: float = 1.0
    longest_backoff_s: float = 60.0
    stable_s: float = 300.0
    quarantine_deaths: int = 3
    quarantine_window_s: float = 300.0

    def backoff_s(self, streak: int) -> float:
        if streak <= 1:
            return 0.0
        return min(self.longest_backoff_s, self.first_backoff_s * 2.0 ** min(streak - 2, 32))


@dataclass(frozen=True, slots=True)
class Begin:
    """Somebody wants this slot filled. Clears a quarantine."""


@dataclass(frozen=True, slots=True)
class Found:
    """A controller that has just started meets a living incarnation."""

    incarnation: int
    address: str
    pid: int


@dataclass(frozen=True, slots=True)
class Progress:
    incarnation: int
    note: str


@dataclass(frozen=True, slots=True)
class Started:
    """The process serves; its first heartbeat makes it ready."""

    incarnation: int
    address: str
    pid: int


@dataclass(frozen=True, slots=True)
class StartFailed:
    """It could not come up and said why. The process is gone or useless."""

    incarnation: int
    reason: str


@dataclass(frozen=True, slots=True)
class Heartbeat:
    incarnation: int
    step: int
    stepping: bool
    predicted_step_s: float


@dataclass(frozen=True, slots=True)
class HeartbeatLost:
    """Its stream broke though the process seems to be there."""

    incarnation: int
    reason: str


@dataclass(frozen=True, slots=True)
class Died:
    incarnation: int
    reason: str


@dataclass(frozen=True, slots=True)
class Drain:
    """It shall give its requests away, then leave."""


@dataclass(frozen=True, slots=True)
class Emptied:
    """The last request has left it."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class Leave:
    """Nobody wants this slot filled any more; now."""


@dataclass(frozen=True, slots=True)
class Tick:
    pass


Event = (
    Begin | Found | Progress | Started | StartFailed | Heartbeat | HeartbeatLost | Died | Drain | Emptied | Leave | Tick
)


@dataclass(frozen=True, slots=True)
class StartInstance:
    incarnation: int


@dataclass(frozen=True, slots=True)
class KillInstance:
    incarnation: int
    reason: str


@dataclass(frozen=True, slots=True)
class StopInstance:
    """Ask it to finish and leave."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class Publish:
    """What watchers see of this slot has changed."""


Command = StartInstance | KillInstance | StopInstance | Publish


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot as the controller believes it to be; only `advance` makes new ones. Times: monotonic seconds."""

    id: str
    state: InstanceState = InstanceState.STOPPED
    incarnation: int = 0
    address: str = ""
    pid: int = 0
    since_s: float = 0.0  # in this state
    heartbeat_s: float = 0.0
    step: int = 0
    stepping: bool = False
    progress_s: float = 0.0  # when `step` was last seen to change, or no step was in flight
    predicted_step_s: float = 0.0
    deaths_s: tuple[float, ...] = ()
    streak: int = 0
    deaths: int = 0
    retry_at_s: float = 0.0
    killed_at_s: float = 0.0
    note: str = ""
    story: tuple[InstanceState, ...] = field(default=(), compare=False)


__all__ = [
    "Begin",
    "Command",
    "Died",
    "Drain",
    "Emptied",
    "Event",
    "Found",
    "Heartbeat",
    "HeartbeatLost",
    "InstanceState",
    "KillInstance",
    "Leave",
    "Progress",
    "Publish",
    "Rules",
    "Slot",
    "StartFailed",
    "StartInstance",
    "Started",
    "StopInstance",
    "Tick",
]
