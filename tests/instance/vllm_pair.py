"""Two VllmEngines in one process, stepped in turn, and moves between them whose copies run on threads meanwhile.
Imports vLLM: only fixtures of tests marked `vllm` may import this.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from shoal.instance.mover import Lease, Pin, RequestState
from shoal.instance.seam import Submission
from tests.instance.vllm_drive import Drive, Heard

ALL = 1 << 30
WAIT_S = 600.0  # a bound, not a promise: the storm computes long prompts


@dataclass(slots=True)
class Move:
    """One request on its way. `slowest_s`: what each command on a step thread took at most, by name."""

    source: Drive
    target: Drive
    engine_id: str
    wire: bytes
    copier: ThreadPoolExecutor
    stages: int = 2
    parcel_blocks: int = 64
    pins: list[Pin] = field(default_factory=list)
    lease: Lease | None = None
    parked: bool = False
    state: RequestState | None = None
    new_id: str = ""
    sent_blocks: int = 0
    slowest_s: dict[str, float] = field(default_factory=dict)

    def __iter__(self) -> Generator[str, None, None]:
        """Goes on after each engine step; says what it has just done."""
        first, told = 0, 0
        for stage in range(self.stages):
            self.pins.append(self._timed("pin", self.source.engine.mover.pin, self.engine_id, first, ALL))
            pin, output = self.pins[-1], list(self.source.heard[self.engine_id].tokens)
            if stage == 0:
                # Off the step thread in an instance, as every other `prepare`.
                prepared = self.target.engine.prepare(Submission(self.engine_id, 1, self.wire, tuple(output)))
                self.lease = self._timed("lease", self.target.engine.mover.lease, prepared, pin.hashes)
                positions = self.lease.missing
                yield "leased"
            else:
                self._timed("grow", self.target.engine.mover.grow, self.lease, output[told:])
                positions = tuple(range(first, first + pin.blocks))
            yield from self._send(pin, positions)
            first, told = first + pin.blocks, len(output)
            self._timed("seal", self.target.engine.mover.seal, self.lease, first)
            self.give_back_pins()
            yield "copied"
        while not self._timed("park", self.source.engine.mover.park, self.engine_id):
            yield "in flight"
        self.parked = True
        yield "parked"
        self.state = self._timed("take_state", self.source.engine.mover.take_state, self.engine_id)
        tail = self._timed("pin_tail", self.source.engine.mover.pin_tail, self.engine_id, first)
        self.pins.append(tail)
        news = self.state.output[told:]
        self._timed("grow", self.target.engine.mover.grow, self.lease, news)
        yield from self._send(tail, tuple(range(first, first + tail.blocks)))
        self._timed("hold", self.target.engine.mover.hold, self.lease, self.state)
        yield "held"

    def _send(self, pin: Pin, positions: tuple[int, ...]) -> Iterator[str]:
        for start in range(0, len(positions), self.parcel_blocks):
            some = positions[start : start + self.parcel_blocks]
            copy = self.copier.submit(self._copy, pin, some)
            try:
                while not copy.done():
                    yield "copying"
            finally:
                wait([copy])  # given up meanwhile, it must not write into blocks that are someone else's by then
            copy.result()
            self.sent_blocks += len(some)

    def _copy(self, pin: Pin, positions: tuple[int, ...]) -> None:
        data = bytearray(len(positions) * self.source.engine.mover.block_bytes)
        self.source.engine.mover.read(pin, positions, memoryview(data))
        self.target.engine.mover.write(self.lease, positions, memoryview(data))

    def _timed(self, name: str, act: Callable[..., Any], *arguments: Any) -> Any:
        began_s = time.perf_counter()
        result = act(*arguments)
        self.slowest_s[name] = max(self.slowest_s.get(name, 0.0), time.perf_counter() - began_s)
        return result

    # -- ends

    def commit(self) -> str:
        """What is said under the new id adds to what was heard under the old one."""
        request_id, _, epoch = self.engine_id.rpartition("@")
        self.new_id = f"{request_id}@{int(epoch) + 1}"
        self.target.heard[self.new_id] = self.source.heard[self.engine_id]
        self._timed("adopt", self.target.engine.mover.adopt, self.lease, self.new_id)
        self.give_back_pins()
        self._timed("release", self.source.engine.mover.release, self.engine_id)
        return self.new_id

    def undo(self) -> None:
        self.give_back_pins()
        if self.lease is not None:
            self.target.engine.mover.drop(self.lease)
        if self.parked:
            self.source.engine.mover.unpark(self.engine_id)

    def give_back_pins(self) -> None:
        while self.pins:
            self.source.engine.mover.unpin(self.pins.pop())


class Pair:
    """Engines `a` and `b`."""

    def __init__(self, **sizes: Any) -> None:
        self.a, self.b = Drive(**sizes), Drive(**sizes)
        self.copier = ThreadPoolExecutor(4)
        self.undisturbed: dict[bytes, Heard] = {}

    def other(self, drive: Drive) -> Drive:
        return self.b if drive is self.a else self.a

    def step(self) -> None:
        for drive in (self.a, self.b):
            if drive.engine.has_work():
                drive.step()

    def move(self, source: Drive, engine_id: str, wire: bytes, **how: Any) -> Move:
        return Move(source, self.other(source), engine_id, wire, self.copier, **how)

    def hand_over(self, source: Drive, engine_id: str, wire: bytes, **how: Any) -> str:
        """From end to end, both engines stepping. Returns its id at the other one."""
        move = self.move(source, engine_id, wire, **how)
        for _said in move:
            self.step()
        return move.commit()

    def busy(self) -> bool:
        return self.a.engine.has_work() or self.b.engine.has_work()

    def finish(self, heard: Heard | None = None) -> Heard | None:
        end_s = time.monotonic() + WAIT_S
        while self.busy():
            assert time.monotonic() < end_s, "the engines do not come to an end"
            self.step()
        return heard

    def leftovers(self) -> list[str]:
        """What finished requests and moves should not have left; empty where all is well."""
        return [f"{name}: {what}" for name in ("a", "b") for what in self._leftovers(getattr(self, name))]

    @staticmethod
    def _leftovers(drive: Drive) -> list[str]:
        engine, scheduler = drive.engine, drive.engine.scheduler
        tables = scheduler.kv_cache_manager.coordinator.single_type_managers[0]
        worker = getattr(engine.core.model_executor, "driver_worker", None)  # none where ranks are processes
        kept = {
            "blocks": not drive.all_free(),
            "rows": worker and worker.worker.model_runner.requests,
            "parked": scheduler.parked,
            "promised": scheduler.promised,
            "residents": engine.mover.residents(),
            "block tables": dict(tables.req_to_blocks),
            "cached blocks": tables.num_cached_block,
        }
        return [f"{name} {what}" for name, what in kept.items() if what]

    def shutdown(self) -> None:
        self.copier.shutdown()
        self.a.engine.shutdown()
        self.b.engine.shutdown()


__all__ = ["Move", "Pair"]
