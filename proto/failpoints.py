"""Named places in the shells where a test may pause, end, fail or delay the process; nothing happens at a place that is
not armed.

A place is one line, `hit("membership.before_restart")`, or `await ahit(...)` on an event loop. Arm it from a test with
`arm`, or in another process with the environment: SHOAL_FAILPOINTS="a=exit:9;b=delay:0.2;c=raise;d=pause@3" ends at a
with code 9, waits 0.2 s at b, raises FailpointHit at c, and stops at d when it is passed for the third time, until
`release("d")` or a minute (`pause:5`: five seconds) has gone. Owns which names exist (KNOWN), what is armed, and how
often an armed name was passed. Names outside KNOWN are an error.
"""

import asyncio
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

# FLOOR.PLACE of every hit() and ahit() in the product; a test compares the two.
KNOWN: tuple[str, ...] = (
    "arrival.adopt",
    "arrival.hold",
    "arrival.install",
    "arrival.lease",
    "arrival.prepared",
    "departure.copy",
    "departure.hand_over",
    "departure.look",
    "departure.open",
    "departure.park",
    "departure.prepare",
    "departure.release",
    "dispatcher.after_accept",
    "dispatcher.after_assign",
    "dispatcher.before_assign",
    "handovers.after_commit",
    "handovers.before_commit",
    "instance.submit",
    "pool.publish",
)

Kind = Literal["pause", "exit", "raise", "delay"]
KINDS: dict[str, Kind] = {"pause": "pause", "exit": "exit", "raise": "raise", "delay": "delay"}
DEFAULTS: dict[Kind, float] = {"pause": 60.0, "exit": 9, "raise": 0, "delay": 0.1}
POLL_S = 0.01


class FailpointHit(Exception):
    """Raised at a place armed with `raise`."""


class UnknownFailpoint(ValueError):
    """No place of this name, or an action that does not exist."""


@dataclass(slots=True)
class Armed:
    """`argument` is seconds, or the exit code. `on_hit` 0 = each time, n = the n-th time only."""

    kind: Kind
    argument: float
    on_hit: int = 0
    hits: int = 0
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def due(self) -> bool:
        with self.lock:
            self.hits += 1
            return self.on_hit in (0, self.hits)


def parse(text: str) -> Armed:
    """`kind[:argument][@n]`."""
    head, _, nth = text.partition("@")
    word, _, argument = head.partition(":")
    kind = KINDS.get(word)
    if kind is None:
        raise UnknownFailpoint(f"action must be one of {', '.join(KINDS)}, given {text!r}")
    try:
        armed = Armed(kind, float(argument) if argument else DEFAULTS[kind], int(nth) if nth else 0)
    except ValueError:
        raise UnknownFailpoint(f"action must read kind[:number][@n], given {text!r}") from None
    if armed.on_hit < 0 or not 0 <= armed.argument < float("inf"):
        raise UnknownFailpoint(f"action must have numbers of at least 0, given {text!r}")
    return armed


class Failpoints:
    """The armed places of one process. Thread-safe: any thread may pass a place while another arms or releases it."""

    def __init__(self, known: Iterable[str]) -> None:
        self.known = frozenset(known)
        self._armed: dict[str, Armed] = {}

    def arm(self, name: str, action: str) -> None:
        """`action` as in the environment: "exit:9", "pause@3"."""
        self._check(name)
        self._armed[name] = parse(action)

    def load(self, spec: str) -> None:
        """Arms everything in `a=exit:9;b=delay:0.2`."""
        for part in filter(None, (p.strip() for p in spec.split(";"))):
            name, _, action = part.partition("=")
            self.arm(name.strip(), action.strip())

    def clear(self) -> None:
        """Disarms all and lets go whoever is paused."""
        armed, self._armed = self._armed, {}
        for point in armed.values():
            point.released.set()

    def release(self, name: str) -> None:
        self._point(name).released.set()

    def wait_reached(self, name: str, timeout_s: float) -> bool:
        """True as soon as somebody acted at `name`."""
        return self._point(name).reached.wait(timeout_s)

    def hits(self, name: str) -> int:
        return self._point(name).hits

    def hit(self, name: str) -> None:
        point = self._armed.get(name)
        if point is None or not point.due():
            return
        wait_s = _begin(name, point)
        if point.kind == "pause":
            point.released.wait(wait_s)
        elif wait_s:
            time.sleep(wait_s)

    async def ahit(self, name: str) -> None:
        """As `hit`; only the calling task waits."""
        point = self._armed.get(name)
        if point is None or not point.due():
            return
        wait_s = _begin(name, point)
        end_s = time.monotonic() + wait_s
        while (left_s := end_s - time.monotonic()) > 0 and not point.released.is_set():
            await asyncio.sleep(min(left_s, POLL_S) if point.kind == "pause" else left_s)

    def _check(self, name: str) -> None:
        if name not in self.known:
            raise UnknownFailpoint(f"no fail-point {name!r}; there are: {', '.join(sorted(self.known)) or 'none'}")

    def _point(self, name: str) -> Armed:
        self._check(name)
        if name not in self._armed:
            raise UnknownFailpoint(f"fail-point {name!r} is not armed")
        return self._armed[name]


def _begin(name: str, point: Armed) -> float:
    """Ends or raises where asked; else the seconds to wait."""
    point.reached.set()
    if point.kind == "exit":
        os._exit(int(point.argument))
    if point.kind == "raise":
        raise FailpointHit(name)
    return point.argument


_process = Failpoints(KNOWN)
_process.load(os.environ.get("SHOAL_FAILPOINTS", ""))

arm, clear, release, hit, ahit = _process.arm, _process.clear, _process.release, _process.hit, _process.ahit
wait_reached, hits = _process.wait_reached, _process.hits

__all__ = [
    "KNOWN",
    "FailpointHit",
    "Failpoints",
    "UnknownFailpoint",
    "ahit",
    "arm",
    "clear",
    "hit",
    "hits",
    "release",
    "wait_reached",
]
