"""What the supervisor promises, over a head that misbehaves: a true state, one line on failure, nothing left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from shoal.cluster import reaper
from shoal.cluster.cli.down import clean_up_after, stop_supervisor
from shoal.cluster.rundir import RunDir

BOOT = """
import sys
from pathlib import Path
from shoal.cluster import reaper
from shoal.cluster.rundir import RunDir
from shoal.cluster.supervisor import Supervisor
import shoal.cluster.supervisor as s
s.HEAD_GRACE_S, s.LOOK_S = 1.0, 0.1
run = RunDir(Path(sys.argv[1]))
lock = run.lock()
reaper.become_subreaper()
sys.exit(Supervisor(run, sys.argv[2], head_module=sys.argv[3]).supervise())
"""
HEAD = """
import json, mmap, os, signal, subprocess, sys, time
def say(**words): print(json.dumps(words), flush=True)
"""


@dataclass
class Rig:
    run: RunDir
    code: Path
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    process: subprocess.Popen[bytes] | None = None

    def start(self, head: str) -> None:
        self.run.make()
        self.run.write("config.json", b'{"engine": {"kind": "fake"}, "secret": "s3"}')
        (self.code / "a_head.py").write_text(HEAD + head)
        environment = {**os.environ, "PYTHONPATH": str(self.code)}
        command = [sys.executable, "-c", BOOT, str(self.run.path), self.run_id, "a_head"]
        with self.run.log.open("wb") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def until(self, true: Callable[[], bool], patience_s: float = 30.0) -> None:
        end_s = time.monotonic() + patience_s
        while not true():
            assert time.monotonic() < end_s, f"gave up waiting; log: {self.run.log.read_text()}"
            time.sleep(0.02)

    def phase(self) -> str:
        state = self.run.state()
        return state.phase if state else ""

    def ended(self) -> int:
        assert self.process is not None
        return self.process.wait(30)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    (tmp_path / "code").mkdir()
    one = Rig(RunDir(tmp_path / "c"), tmp_path / "code")
    yield one
    if one.process is not None:
        one.process.kill()
        one.process.wait(10)
    reaper.end_all(one.run_id, grace_s=0.0)
    if (state := one.run.state()) is not None:
        shutil.rmtree(state.ray_dir, ignore_errors=True)


UP = 'say(step="a"); say(controller="127.0.0.1:1"); print("not ours"); say(phase="up")\n'


def test_what_the_head_says_becomes_the_state_and_a_stop_clears_it(rig: Rig):
    rig.start(UP + "signal.pause()")
    rig.until(lambda: rig.phase() == "up")
    state = rig.run.state()
    assert state is not None and state.controller == "127.0.0.1:1" and rig.run.is_running()
    stop_supervisor(rig.run)
    assert rig.ended() == 0 and rig.run.state() is None and not rig.run.is_running()
    assert not Path(state.ray_dir).exists()
    assert "not ours" in rig.run.log.read_text()


def test_a_failed_start_leaves_its_reason_and_nothing_else(rig: Rig):
    rig.start('say(phase="failed", error="no memory"); sys.exit(1)')
    assert rig.ended() == 1
    state = rig.run.state()
    assert state is not None and (state.phase, state.error) == ("failed", "no memory")
    assert reaper.ours(rig.run_id) == set() and not Path(state.ray_dir).exists()


def test_a_head_that_vanishes_is_a_failure_that_names_its_log(rig: Rig):
    rig.start(UP + "time.sleep(0.2); os.kill(os.getpid(), 9)")
    assert rig.ended() == 1
    state = rig.run.state()
    assert state is not None and state.phase == "failed" and "head.log" in state.error


STUBBORN = (
    UP.replace('say(phase="up")', "")
    + """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen(["sh", "-c", "setsid sleep 300 & setsid sleep 300 & exit 0"]).wait()
fd = os.open("/dev/shm/" + sys.argv[2], os.O_CREAT | os.O_RDWR)
os.ftruncate(fd, 4096); kept = mmap.mmap(fd, 4096)
say(phase="up")
while True: time.sleep(1)
"""
)


def test_a_head_that_ignores_everything_is_ended_with_its_orphans_and_its_shared_memory(rig: Rig):
    rig.start(STUBBORN)
    rig.until(lambda: rig.phase() == "up" and rig.run_id in (rig.run.state() or rig).shm)  # type: ignore[union-attr]
    assert len(reaper.ours(rig.run_id)) == 3
    stop_supervisor(rig.run)
    assert rig.ended() == 0 and reaper.ours(rig.run_id) == set()
    assert rig.run_id not in reaper.shm_names()


def test_what_a_killed_supervisor_leaves_is_cleaned_up_by_the_next_command(rig: Rig):
    rig.start(STUBBORN)
    rig.until(lambda: rig.phase() == "up" and rig.run_id in (rig.run.state() or rig).shm)  # type: ignore[union-attr]
    state = rig.run.state()
    assert state is not None
    os.kill(state.supervisor_pid, signal.SIGKILL)
    rig.ended()
    assert not rig.run.is_running() and reaper.ours(rig.run_id)
    clean_up_after(rig.run, state)
    assert reaper.ours(rig.run_id) == set() and rig.run_id not in reaper.shm_names()
    assert rig.run.state() is None and not Path(state.ray_dir).exists()


def test_an_orphaned_head_ends_by_itself(rig: Rig):
    rig.start(
        "from shoal.cluster import reaper; from shoal.cluster.rundir import SUPERVISOR_PID\n"
        "reaper.die_with_parent(int(os.environ[SUPERVISOR_PID]))\n" + UP + "time.sleep(300)"
    )
    rig.until(lambda: rig.phase() == "up")
    assert rig.process is not None
    rig.process.kill()
    rig.ended()
    rig.until(lambda: reaper.ours(rig.run_id) == set())
