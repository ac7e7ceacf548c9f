"""Which requests this instance holds, for whom, and what it said of each. Pure: the server performs what this decides.

State of a held request:
  attached   its watcher's stream is open: output goes there
  orphaned   the stream ended; a resumable request goes on and keeps its output for an adopter, until KEEP_S
  finished   the last output is out; a resumable one is kept as long, should its frontend die before its client has it
Anything not resumable ends with its stream. `check()` states the invariants.

One request may have several lives here, one per epoch: its frontend lost the stream and submitted it again. An adopter
gets the latest life or none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from shoal.proto.tracing import NOTHING, Span, begin

KEEP_S = 30.0
MAX_FINISHED = 4096


@dataclass(slots=True, eq=False)
class Held:
    """`delivered`: output that came with the submission. `output`: that and all said since. `kept` is only filled for
    resumable ones. `frontend`: the watcher's own id, which outlives its streams. `moves`: how often it was moved, and
    `since_s` when it came here. `traceparent`: of what serves it here, whose span is `span`.
    """

    request_id: str
    epoch: int
    engine_id: str
    watcher: int | None
    tenant: str
    request: bytes
    delivered: tuple[int, ...]
    resume_key: str = ""
    resume_context: bytes = b""
    frontend: str = ""
    kept: list[Any] = field(default_factory=list)
    finished: bool = False
    expires_s: float | None = None
    moves: int = 0
    since_s: float = 0.0
    traceparent: str = ""
    span: Span = NOTHING
    output: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.output = list(self.delivered)

    @property
    def next_index(self) -> int:
        return len(self.output)

    @property
    def resumable(self) -> bool:
        return bool(self.resume_key)


class Address(NamedTuple):
    """Where one output goes, and the fence that it carries. `watcher` is None for an orphan's."""

    watcher: int | None
    request_id: str
    epoch: int
    index: int


class Holdings:
    """Sole owner of the requests of one instance. Watchers are numbered streams."""

    def __init__(self) -> None:
        self.by_engine_id: dict[str, Held] = {}
        self.by_request: dict[tuple[int, str], str] = {}  # (watcher, request id) -> engine id

    def add(self, held: Held) -> bool:
        """False: that very request and epoch, or a later one of this watcher, is here already. An earlier one must have
        been dropped before.
        """
        assert held.watcher is not None
        if held.engine_id in self.by_engine_id or (held.watcher, held.request_id) in self.by_request:
            return False
        held.span = begin("serve", held.traceparent, request=held.request_id, epoch=held.epoch)
        self.by_engine_id[held.engine_id] = held
        self.by_request[held.watcher, held.request_id] = held.engine_id
        return True

    def drop_earlier(self, watcher: int, request_id: str, epoch: int) -> str | None:
        """The watcher submits it again under `epoch`. Returns the engine id of its earlier life to abort."""
        engine_id = self.by_request.get((watcher, request_id))
        if engine_id is None or self.by_engine_id[engine_id].epoch >= epoch:
            return None
        self.drop(engine_id)
        return engine_id

    def said(
        self, engine_id: str, output: Any, tokens: Iterable[int], *, finished: bool, now_s: float
    ) -> Address | None:
        """Record one output. Returns where it goes, or None when nobody wants it any more."""
        held = self.by_engine_id.get(engine_id)
        if held is None:
            return None
        address = Address(held.watcher, held.request_id, held.epoch, held.next_index)
        held.output.extend(tokens)
        if held.resumable:
            held.kept.append(output)
        if finished:
            held.finished = True
            held.span.end()
            if held.resumable:
                held.expires_s = now_s + KEEP_S
            else:
                self.drop(engine_id)
        return address

    def drop(self, engine_id: str) -> None:
        if held := self.by_engine_id.pop(engine_id, None):
            held.span.note(output_tokens=len(held.output))
            held.span.end()
            self._forget_watcher(held)

    def _forget_watcher(self, held: Held) -> None:
        if held.watcher is not None:
            del self.by_request[held.watcher, held.request_id]
            held.watcher = None

    def find(self, request_id: str, frontend: str, epoch: int = 0) -> Held | None:
        """Its latest life here that goes on, or that of `epoch`, which that frontend's open stream owns."""
        lives = [
            held
            for held in self.by_engine_id.values()
            if (held.request_id, held.frontend) == (request_id, frontend) and not held.finished
        ]
        mine = [held for held in lives if held.watcher is not None and epoch in (0, held.epoch)]
        return max(mine, key=lambda held: held.epoch, default=None)

    def drop_request(self, watcher: int, request_id: str) -> str | None:
        """The watcher aborts it. Returns the engine id to abort."""
        engine_id = self.by_request.get((watcher, request_id))
        if engine_id is not None:
            self.drop(engine_id)
        return engine_id

    def end_watcher(self, watcher: int, now_s: float) -> list[str]:
        """The stream is gone. Returns engine ids to abort: all but the resumable ones."""
        aborted = []
        for held in [h for h in self.by_engine_id.values() if h.watcher == watcher]:
            if held.resumable:
                self._forget_watcher(held)
                held.expires_s = now_s + KEEP_S
            else:
                aborted.append(held.engine_id)
                self.drop(held.engine_id)
        return aborted

    def returned(self, frontend: str) -> list[str]:
        """That frontend lives and came back on a new stream: it goes on with its requests by itself, so what its former
        streams left running is wanted by nobody. Returns engine ids to abort.
        """
        left = [h.engine_id for h in self.by_engine_id.values() if h.watcher is None and h.frontend == frontend]
        running = [engine_id for engine_id in left if not self.by_engine_id[engine_id].finished]
        for engine_id in running:
            self.drop(engine_id)
        return running

    def orphan(self, resume_key: str, tenant: str) -> Held | None:
        """Who waits under this name for an adopter. The latest life of the request counts, be it taken or not."""
        lives = (h for h in self.by_engine_id.values() if (h.resume_key, h.tenant) == (resume_key, tenant))
        latest = max(lives, key=lambda h: h.epoch, default=None)
        return latest if latest is not None and latest.watcher is None else None

    def claim(
        self, resume_key: str, tenant: str, *, watcher: int, frontend: str, request_id: str, epoch: int
    ) -> Held | None:
        """An orphan gets a new owner, name and epoch, so that nothing its former owner still hears is believed. None:
        too late.
        """
        held = self.orphan(resume_key, tenant)
        if held is None or epoch != held.epoch + 1 or (watcher, request_id) in self.by_request:
            return None
        held.watcher, held.frontend, held.request_id, held.epoch = watcher, frontend, request_id, epoch
        held.expires_s = held.expires_s if held.finished else None
        self.by_request[watcher, request_id] = held.engine_id
        return held

    def expire(self, now_s: float) -> list[str]:
        """Drops what nobody came for. Returns engine ids to abort."""
        late = [h for h in self.by_engine_id.values() if h.expires_s is not None and h.expires_s <= now_s]
        finished = [h for h in self.by_engine_id.values() if h.finished and h not in late]
        late += finished[: max(0, len(finished) - MAX_FINISHED)]
        for held in late:
            self.drop(held.engine_id)
        return [h.engine_id for h in late if not h.finished]

    def check(self) -> None:
        for (watcher, request_id), engine_id in self.by_request.items():
            held = self.by_engine_id[engine_id]
            assert (held.watcher, held.request_id) == (watcher, request_id)
        for held in self.by_engine_id.values():
            if held.watcher is not None:
                found = self.by_request.get((held.watcher, held.request_id))
                assert found == held.engine_id, f"{held.engine_id} cannot be aborted by its owner"
            else:
                assert held.resumable, f"{held.engine_id} has no owner and nobody may adopt it"
            bounded = held.expires_s is not None
            assert bounded == (held.watcher is None or held.finished), f"{held.engine_id} would be kept for ever"


__all__ = ["KEEP_S", "Address", "Held", "Holdings"]
