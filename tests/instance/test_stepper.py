"""The step thread: commands run between steps, each failure reaches its asker alone, and nobody waits for ever."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import pytest

from shoal.instance.seam import BlockChange, EngineInfo, EngineLoad, Prepared, StepResult
from shoal.instance.stepper import EngineDied, Stepper, StepRecord

WAIT_S = 20.0
INFO = EngineInfo("m", "0.32.0", 4, 8, 64, 16, 4, "fake")
THREAD_DIED = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class Script:
    """A tiny engine. A request makes one token a step, `left` of them; a closed `gate` holds it inside a step."""

    info = INFO

    def __init__(self) -> None:
        self.left: dict[str, int] = {}
        self.refuses: set[str] = set()  # `add` raises for these
        self.compiling: set[str] = set()  # not ready
        self.changes: list[BlockChange] = []
        self.log: list[str] = []
        self.asked_for_work = 0
        self.steps = 0
        self.gate = threading.Event()
        self.gate.set()
        self.in_step = threading.Event()
        self.executed = True
        self.breaks = False

    def prepare(self, submission: Any) -> Prepared:
        raise NotImplementedError

    def ready(self, prepared: Prepared) -> bool:
        return prepared.engine_id not in self.compiling

    def add(self, prepared: Prepared) -> None:
        if prepared.engine_id in self.refuses:
            raise RuntimeError(f"{prepared.engine_id} is impossible")
        self.left[prepared.engine_id] = prepared.native
        self.log.append(f"add {prepared.engine_id}")

    def abort(self, engine_ids: Iterable[str]) -> None:
        for engine_id in engine_ids:
            self.left.pop(engine_id, None)
            self.log.append(f"abort {engine_id}")

    def has_work(self) -> bool:
        self.asked_for_work += 1
        return bool(self.left)

    def step(self) -> StepResult:
        self.in_step.set()
        assert self.gate.wait(WAIT_S)
        self.steps += 1
        self.log.append("step")
        if self.breaks:
            raise ValueError("the runner broke")
        if not self.executed:
            return StepResult(executed=False)
        outputs = sorted(self.left)
        self.left = {engine_id: n - 1 for engine_id, n in self.left.items() if n > 1}
        return StepResult(outputs=outputs)

    def load(self) -> EngineLoad:
        return EngineLoad(running=len(self.left), free_blocks=8 - len(self.left), total_blocks=8)

    def take_block_changes(self) -> list[BlockChange]:
        changes, self.changes = self.changes, []
        return changes

    def encode(self, outputs: list[Any]) -> bytes:
        return b""

    def call(self, method: str, arguments: dict[str, Any]) -> Any:
        return None

    def warm_up(self) -> None: ...

    def shutdown(self) -> None: ...


class Rig:
    """A stepper over a script, and what it told."""

    def __init__(self, core: int | None = None) -> None:
        self.engine = Script()
        self.records: list[StepRecord] = []
        self.told = threading.Condition()
        self.deaths: list[str] = []
        self.taken: list[str] = []
        self.failed: dict[str, Exception] = {}
        self.stepper = Stepper(self.engine, self._tell, self._die, core)

    def _tell(self, record: StepRecord) -> None:
        with self.told:
            self.records.append(record)
            self.told.notify_all()

    def _die(self, reason: str) -> None:
        with self.told:
            self.deaths.append(reason)
            self.told.notify_all()

    def until(self, reached: Callable[[], bool]) -> None:
        with self.told:
            assert self.told.wait_for(reached, WAIT_S)

    def add(self, engine_id: str, tokens: int = 1) -> None:
        def failed(exc: Exception) -> None:
            self.failed[engine_id] = exc

        self.stepper.add(Prepared(engine_id, tokens), taken=lambda: self.taken.append(engine_id), failed=failed)

    def ask(self, act: Callable[[], Any]) -> Any:
        return self.stepper.ask(act).result(WAIT_S)

    def outputs(self) -> list[str]:
        return [output for record in self.records for output in record.outputs]


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.engine.gate.set()
    if rig.stepper.thread.is_alive():
        rig.stepper.stop()
        rig.stepper.thread.join(WAIT_S)
    assert not rig.stepper.thread.is_alive()


def started(rig: Rig) -> Rig:
    rig.stepper.start()
    rig.until(lambda: bool(rig.records))
    return rig


# -- steps and commands


def test_every_step_reports_its_outputs_its_number_and_the_load_after_it(rig: Rig) -> None:
    rig.add("a", 3)
    rig.add("b", 1)
    started(rig)
    rig.until(lambda: rig.engine.steps == 3 and len(rig.outputs()) == 4)
    assert rig.outputs() == ["a", "b", "a", "a"]
    numbered = [record.step for record in rig.records if record.outputs]
    assert numbered == [1, 2, 3]
    assert [record.load.running for record in rig.records if record.outputs] == [1, 1, 0]


def test_commands_run_between_steps_in_the_order_in_which_they_were_asked(rig: Rig) -> None:
    rig.engine.gate.clear()
    started(rig).add("a", 2)
    assert rig.engine.in_step.wait(WAIT_S)
    assert rig.stepper.stepping
    asked = [rig.stepper.ask(lambda n=n: rig.engine.log.append(f"act {n}")) for n in range(3)]
    assert not any(future.done() for future in asked)
    rig.engine.gate.set()
    for future in asked:
        future.result(WAIT_S)
    rig.until(lambda: rig.outputs() == ["a", "a"])
    assert rig.engine.log == ["add a", "step", "act 0", "act 1", "act 2", "step"]


def test_a_request_is_counted_as_taken_before_the_first_report_whose_load_has_it(rig: Rig) -> None:
    seen: list[tuple[int, int]] = []
    rig.stepper.on_step = lambda record: seen.append((len(rig.taken), record.load.running + len(record.outputs)))
    for n in range(20):
        rig.add(f"r{n}", 1000)
    rig.stepper.start()
    rig.ask(lambda: None)
    assert seen
    for taken, in_load in seen:
        assert taken <= in_load  # both: still running, or heard of in this record
    rig.ask(lambda: rig.engine.abort(list(rig.engine.left)))


def test_an_answer_goes_to_its_asker(rig: Rig) -> None:
    started(rig)
    assert rig.ask(lambda: 42) == 42


def test_what_commands_change_while_idle_is_reported_with_the_number_of_the_last_step(rig: Rig) -> None:
    started(rig).add("a", 1)
    rig.until(lambda: rig.outputs() == ["a"])

    def store() -> None:
        rig.engine.changes.append(BlockChange("stored", (b"x",)))

    rig.ask(store)
    rig.until(lambda: any(record.changes for record in rig.records))
    last = rig.records[-1]
    assert (last.step, last.outputs, last.changes) == (1, [], [BlockChange("stored", (b"x",))])


def test_an_idle_engine_is_left_alone(rig: Rig) -> None:
    started(rig)
    rig.ask(lambda: None)
    rig.until(lambda: len(rig.records) == 2)
    looks = rig.engine.asked_for_work
    threading.Event().wait(0.05)
    assert rig.engine.steps == 0
    assert len(rig.records) == 2
    assert rig.engine.asked_for_work <= looks + 1


def test_an_engine_that_cannot_run_its_work_yet_is_asked_again_but_does_not_spin(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    enough = threading.Event()

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 5:
            rig.engine.executed = True
            enough.set()

    monkeypatch.setattr("shoal.instance.stepper.time.sleep", sleep)
    rig.engine.executed = False
    rig.add("a", 1)
    started(rig)
    assert enough.wait(WAIT_S)
    rig.until(lambda: rig.outputs() == ["a"])
    assert rig.engine.steps == 6
    assert len(pauses) == 5
    assert min(pauses) > 0


# -- failures


def test_a_failing_command_tells_its_asker_only(rig: Rig) -> None:
    started(rig)

    def fail() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError):
        rig.ask(fail)
    rig.add("a", 1)
    rig.until(lambda: rig.outputs() == ["a"])
    assert rig.deaths == []


def test_a_request_that_the_engine_will_not_have_fails_alone_and_counts_as_taken(rig: Rig) -> None:
    rig.engine.refuses = {"bad"}
    rig.add("bad")
    rig.add("good")
    started(rig)
    rig.until(lambda: rig.outputs() == ["good"])
    assert rig.taken == ["bad", "good"]
    assert list(rig.failed) == ["bad"]
    assert rig.deaths == []


def test_a_cancelled_command_is_not_run_and_harms_nobody(rig: Rig) -> None:
    rig.engine.gate.clear()
    started(rig).add("a", 1)
    assert rig.engine.in_step.wait(WAIT_S)
    ran: list[int] = []
    future = rig.stepper.ask(lambda: ran.append(1))
    assert future.cancel()
    rig.engine.gate.set()
    assert rig.ask(lambda: "alive") == "alive"
    assert ran == []


@THREAD_DIED
def test_a_failing_step_ends_the_engine_and_fails_every_command_then_and_later(rig: Rig) -> None:
    rig.engine.gate.clear()
    rig.engine.breaks = True
    started(rig).add("a", 1)
    assert rig.engine.in_step.wait(WAIT_S)
    queued: list[Future[None]] = [rig.stepper.ask(lambda: None) for _ in range(5)]
    queued[0].cancel()
    rig.engine.gate.set()
    rig.until(lambda: bool(rig.deaths))
    with pytest.raises(CancelledError):
        queued[0].result(WAIT_S)
    for future in queued[1:]:
        with pytest.raises(EngineDied, match="the runner broke"):
            future.result(WAIT_S)
    with pytest.raises(EngineDied):
        rig.ask(lambda: None)
    assert rig.deaths == ["ValueError: the runner broke"]
    assert not rig.stepper.stepping


@THREAD_DIED
def test_many_threads_may_ask_a_dying_engine_and_all_get_an_answer(rig: Rig) -> None:
    rig.engine.breaks = True
    died: list[int] = []

    def ask_on() -> None:
        refused = 0
        while refused < 100:
            try:
                rig.ask(lambda: None)
            except EngineDied:
                refused += 1
        died.append(refused)

    askers = [threading.Thread(target=ask_on) for _ in range(4)]
    started(rig)
    for asker in askers:
        asker.start()
    rig.add("a", 1)
    for asker in askers:
        asker.join(WAIT_S)
    assert died == [100] * 4


def test_stop_ends_the_thread_between_steps_and_fails_what_comes_after(rig: Rig) -> None:
    started(rig).add("a", 1_000_000)
    rig.until(lambda: rig.engine.steps > 3)
    rig.stepper.stop()
    rig.stepper.thread.join(WAIT_S)
    assert rig.deaths == ["stopped"]
    with pytest.raises(EngineDied, match="stopped"):
        rig.ask(lambda: None)


# -- requests whose grammar still compiles


def test_a_request_that_is_not_ready_waits_in_the_load_and_holds_up_nobody(rig: Rig) -> None:
    rig.engine.compiling = {"slow"}
    started(rig).add("slow", 1)
    rig.add("quick", 1)
    rig.until(lambda: rig.outputs() == ["quick"])
    assert rig.taken == ["slow", "quick"]
    assert rig.records[-1].load.waiting == 1
    rig.ask(rig.engine.compiling.clear)
    rig.until(lambda: rig.outputs() == ["quick", "slow"])
    assert rig.records[-1].load.waiting == 0


def test_waiting_for_a_grammar_alone_neither_steps_nor_repeats_reports(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    enough = threading.Event()

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 10:
            enough.set()

    monkeypatch.setattr("shoal.instance.stepper.time.sleep", sleep)
    rig.engine.compiling = {"slow"}
    started(rig).add("slow", 1)
    assert enough.wait(WAIT_S)
    assert rig.engine.steps == 0
    assert [record.load.waiting for record in rig.records] in ([0, 1], [1])
    rig.stepper.abort(["slow"])


def test_commands_are_reported_while_a_grammar_compiles(rig: Rig) -> None:
    rig.engine.compiling = {"slow"}
    started(rig).add("slow", 1)

    def store() -> None:
        rig.engine.changes.append(BlockChange("cleared"))

    rig.ask(store)
    rig.until(lambda: any(record.changes for record in rig.records))


def test_a_request_that_is_not_ready_can_be_aborted(rig: Rig) -> None:
    rig.engine.compiling = {"slow"}
    started(rig).add("slow", 1)
    rig.stepper.abort(["slow"]).result(WAIT_S)
    rig.ask(rig.engine.compiling.clear)
    rig.add("after", 1)
    rig.until(lambda: rig.outputs() == ["after"])
    assert "add slow" not in rig.engine.log
    assert rig.records[-1].load.waiting == 0


def test_a_request_that_fails_once_it_is_ready_fails_alone(rig: Rig) -> None:
    rig.engine.compiling = rig.engine.refuses = {"bad"}
    started(rig).add("bad", 1)
    rig.ask(lambda: None)
    assert rig.failed == {}
    rig.engine.compiling = set()
    rig.add("good", 1)
    rig.until(lambda: rig.outputs() == ["good"] and "bad" in rig.failed)
    assert rig.deaths == []


def test_the_step_thread_alone_has_the_core_and_bears_its_name():
    core = min(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    rig = Rig(core)
    rig.stepper.start()
    assert rig.ask(lambda: os.sched_getaffinity(0)) == {core}
    assert rig.ask(lambda: Path(f"/proc/self/task/{threading.get_native_id()}/comm").read_text()) == "engine-step\n"
    assert os.sched_getaffinity(0) == before
    rig.stepper.stop()
    rig.stepper.thread.join(WAIT_S)
