"""The step thread of one engine: it alone touches the engine, runs commands between steps, and reports each step.

A step that raises leaves scheduler and runner out of step with each other, so it ends the engine: the thread stops,
every command that waits fails with EngineDied, and `on_death` is called once. No command can wait for ever.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from prometheus_client import Histogram

from shoal.instance.seam import BlockChange, Engine, EngineLoad, Prepared
from shoal.instance.step_pace import StepPace

T = TypeVar("T")
Failed = Callable[[Exception], None]
THREAD_NAME = "engine-step"
STEP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12)
IDLE_STEP_S = 0.001  # an engine with work that cannot run yet (an asynchronous load) must not spin


class EngineDied(Exception):
    """The engine of this instance is gone; so is whatever was asked of it."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One finished step, or a run of commands while idle (`step` is then that of the last step, `outputs` empty).

    `load` counts what is not ready yet as waiting.
    """

    step: int
    step_start_s: float
    outputs: list[Any]
    load: EngineLoad
    changes: list[BlockChange]
    step_ms: float


class Stepper:
    """Owns the engine from `start` on. `on_step` and `on_death` run on the step thread and must only hand over. `core`
    is that thread's own; the event loop and gRPC's threads stay free to run beside it.
    """

    def __init__(
        self,
        engine: Engine,
        on_step: Callable[[StepRecord], None],
        on_death: Callable[[str], None],
        core: int | None = None,
    ) -> None:
        self.engine, self.on_step, self.on_death, self.core = engine, on_step, on_death, core
        self.commands: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        self.not_ready: list[tuple[Prepared, Failed]] = []  # continued requests whose grammar still compiles
        self.unreported = True
        self.step, self.step_start_s, self.stepping = 0, 0.0, False
        self.pace = StepPace()
        self.predicted_ms = 0.0  # of the step in flight
        self.last_load = EngineLoad()
        self.took = Histogram(
            "shoal_instance_step_duration_seconds", "Engine steps.", buckets=STEP_BUCKETS, registry=None
        )
        self.stopped = False
        self.death: str | None = None
        self.thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)

    def start(self) -> None:
        self.thread.start()

    def ask(self, act: Callable[[], T]) -> Future[T]:
        """Run `act` between two steps."""
        future: Future[T] = Future()
        self.commands.put((act, future))
        if self.death is not None:  # nobody may be left to empty the queue
            self._fail_commands()
        return future

    def add(self, prepared: Prepared, *, taken: Callable[[], None], failed: Failed) -> None:
        """Both are called on the step thread: `taken` before the first report that counts it, `failed` if the engine
        will not have it: at once, or later where it was not ready.
        """

        def act() -> None:
            self._add(prepared, failed)
            taken()

        self.ask(act)

    def abort(self, engine_ids: list[str]) -> Future[None]:
        return self.ask(lambda: self._abort(engine_ids))

    def stop(self) -> None:
        self.commands.put(None)

    # -- on the step thread

    def _add(self, prepared: Prepared, failed: Failed) -> None:
        try:
            if self.engine.ready(prepared):
                self.engine.add(prepared)
            else:
                self.not_ready.append((prepared, failed))
        except Exception as exc:  # that request's fault or luck, not the engine's
            failed(exc)

    def _abort(self, engine_ids: list[str]) -> None:
        self.not_ready = [waiting for waiting in self.not_ready if waiting[0].engine_id not in engine_ids]
        self.engine.abort(engine_ids)

    def _settle(self) -> None:
        """The system's tools see this thread by its name; what the engine starts from here on shares its core."""
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(THREAD_NAME)
        if self.core is not None:
            os.sched_setaffinity(0, {self.core})

    def _run(self) -> None:
        try:
            self._settle()
            while self._drain():
                self._retry_not_ready()
                if self.engine.has_work():
                    self._step_once()
                    continue
                if self.unreported:
                    self._report([])  # what the commands changed, an abort's blocks say
                if self.not_ready:
                    time.sleep(IDLE_STEP_S)
                else:
                    self._perform(self.commands.get())
        except BaseException as exc:
            self._die(f"{type(exc).__name__}: {exc}")
            raise
        self._die("stopped")

    def _drain(self) -> bool:
        """Performs every waiting command. False: stop."""
        while not self.stopped and not self.commands.empty():
            self._perform(self.commands.get())
        return not self.stopped

    def _perform(self, command: tuple[Callable[[], Any], Future[Any]] | None) -> None:
        if command is None:
            self.stopped = True
            return
        act, future = command
        if not future.set_running_or_notify_cancel():
            return
        self.unreported = True
        try:
            future.set_result(act())
        except Exception as exc:  # the asker's fault or luck, not the engine's
            future.set_exception(exc)

    def _retry_not_ready(self) -> None:
        waiting, self.not_ready = self.not_ready, []
        for prepared, failed in waiting:
            self._add(prepared, failed)
        self.unreported |= len(self.not_ready) != len(waiting)

    def _step_once(self) -> None:
        if self.unreported:  # commands have changed what there is to compute
            self.last_load = self.engine.load()
        load, most = self.last_load, self.engine.info.max_num_batched_tokens
        queued_tokens = load.queued_prefill_tokens + load.uncached_prefill_tokens
        self.predicted_ms = self.pace.predict_ms(min(most, load.running + queued_tokens))
        self.step_start_s, self.stepping = time.monotonic(), True
        result = self.engine.step()
        took_s = time.monotonic() - self.step_start_s
        self.pace.saw(1e3 * took_s, result.tokens)
        self.took.observe(took_s)
        self.step, self.stepping = self.step + 1, False
        self._report(result.outputs)
        if not result.executed and self.engine.has_work():
            time.sleep(IDLE_STEP_S)

    def _report(self, outputs: list[Any]) -> None:
        changes, load = self.engine.take_block_changes(), self.engine.load()
        self.last_load = load
        if self.not_ready:
            load = replace(load, waiting=load.waiting + len(self.not_ready))
        self.unreported = False
        self.on_step(StepRecord(self.step, self.step_start_s, outputs, load, changes, self.pace.usual_ms))

    def _die(self, reason: str) -> None:
        self.death, self.stepping = reason, False
        self._fail_commands()
        self.on_death(reason)

    def _fail_commands(self) -> None:
        """Any thread may get here once the step thread is gone."""
        while True:
            try:
                command = self.commands.get_nowait()
            except Empty:
                return
            if command is not None and command[1].set_running_or_notify_cancel():
                command[1].set_exception(EngineDied(self.death))


__all__ = ["THREAD_NAME", "EngineDied", "StepRecord", "Stepper"]
