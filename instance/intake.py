"""Requests as they come to an instance: submitted, taken over after a move, claimed by an adopter. Each is held for its
watcher and given to the step thread, or refused in words.

Owns the count of what each watcher's load includes. Lives on the event loop; what it gives to the step thread says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from shoal.instance.frames import held_of, refused_frame, replay
from shoal.instance.holdings import Held, Holdings
from shoal.instance.seam import Engine, Prepared, Refused, Submission
from shoal.instance.stepper import Stepper
from shoal.instance.watcher import Said, Watcher
from shoal.proto.errors import BadMessage
from shoal.proto.failpoints import hit
from shoal.proto.v1 import instance_pb2 as pb


class Intake:
    """`abort` ends requests in the engine, by engine id. `accepted`: submits and takeovers taken up, by watcher;
    written on the step thread only.
    """

    def __init__(
        self,
        engine: Engine,
        holdings: Holdings,
        watchers: Mapping[int, Watcher],
        loop: Any,
        *,
        stepper: Callable[[], Stepper],
        abort: Callable[[list[str]], None],
    ) -> None:
        self.engine, self.holdings, self.watchers, self.loop = engine, holdings, watchers, loop
        self.stepper, self.abort = stepper, abort
        self.accepted: dict[int, int] = {}

    def submit(self, watcher: Watcher, submit: pb.Submit) -> None:
        hit("instance.submit")
        held, submission = held_of(submit, watcher=watcher.number, frontend=watcher.watcher_id)
        earlier = self.holdings.drop_earlier(watcher.number, held.request_id, held.epoch)
        self.abort([earlier] if earlier is not None else [])
        prepared = None
        if self.holdings.add(held):
            prepared = self._prepare(held, submission)
        elif self.holdings.by_engine_id.get(held.engine_id, held).watcher != watcher.number:
            reason = "this request and epoch is here already, for another watcher"
            watcher.push(refused_frame(held.request_id, held.epoch, reason, client_fault=False))
        if prepared is not None:
            self.stepper().add(prepared, taken=lambda: self._count(watcher), failed=lambda exc: self._failed(held, exc))
        else:
            self.stepper().ask(lambda: self._count(watcher))

    def _prepare(self, held: Held, submission: Submission) -> Prepared | None:
        try:
            return self.engine.prepare(submission)
        except Refused as exc:
            self._refuse(held, str(exc), client_fault=exc.client_fault)
        except BadMessage as exc:
            self._refuse(held, str(exc), client_fault=False)
        except Exception as exc:  # one request that the engine trips over must not take the stream's others with it
            self._refuse(held, f"{type(exc).__name__}: {exc}", client_fault=False)
        return None

    def take_over(self, watcher: Watcher, takeover: pb.Takeover, take: Callable[[], bool]) -> None:
        """`take` runs what was prepared, or there is none."""
        if not take():
            frame = refused_frame(takeover.request_id, takeover.epoch, "its lease is over", client_fault=False)
            watcher.push(frame)
            self.stepper().ask(lambda: self._count(watcher))

    def run_here(self, held: Held, run: Callable[[], None]) -> bool:
        """See `Home`."""
        watcher = self.watchers[held.watcher or 0]
        earlier = self.holdings.drop_earlier(watcher.number, held.request_id, held.epoch)
        self.abort([earlier] if earlier is not None else [])

        def act() -> None:
            try:
                run()
            except Exception as exc:  # that request's luck, not the engine's
                self._failed(held, exc)
            self._count(watcher)

        if not self.holdings.add(held):
            return False
        self.stepper().ask(act)
        return True

    def _count(self, watcher: Watcher) -> None:
        """On the step thread only, or two threads would lose a count."""
        self.accepted[watcher.number] = self.accepted.get(watcher.number, 0) + 1

    def _failed(self, held: Held, exc: Exception) -> None:
        """On the step thread."""
        words = f"{type(exc).__name__}: {exc}"
        self.loop.call_soon_threadsafe(lambda: self._refuse(held, words, client_fault=False))

    def _refuse(self, held: Held, reason: str, *, client_fault: bool) -> None:
        """Tells whoever owns it now; an orphan, or one that was aborted meanwhile, has nobody to tell."""
        watcher = self.watchers.get(held.watcher or 0)
        self.holdings.drop(held.engine_id)
        if watcher is not None:
            watcher.push(refused_frame(held.request_id, held.epoch, reason, client_fault=client_fault))

    def claim(self, watcher: Watcher, claim: pb.Claim) -> Said | None:
        """What it said so far, for its adopter."""
        held = self.holdings.claim(
            claim.resume_key,
            claim.tenant,
            watcher=watcher.number,
            frontend=watcher.watcher_id,
            request_id=claim.request_id,
            epoch=claim.epoch,
        )
        if held is None:
            reason = "another frontend was faster"
            watcher.push(refused_frame(claim.request_id, claim.epoch, reason, client_fault=True))
            return None
        return replay(held)


__all__ = ["Intake"]
