"""What the reaper promises, on real process trees: all of the run end, nobody else, no /dev/shm name stays."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import shared_memory
from pathlib import Path

import pytest

from shoal.cluster import reaper

# A parent with a child in its own session whose parent then ends, and a grandchild: the shapes that outlive a SIGKILL.
TREE = """
import os, subprocess, sys, time
sleep = [sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(120)"]
subprocess.Popen(sleep)
subprocess.Popen(["sh", "-c", "exec setsid sleep 120 & exit 0"]).wait()
print("up", flush=True)
time.sleep(120)
"""


def wait_until(true: Callable[[], bool], patience_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < deadline_s, "gave up waiting"
        time.sleep(0.02)


Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def run_id() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts python code that carries a run's mark; ends all of them afterwards."""
    started: list[tuple[str, subprocess.Popen[bytes]]] = []

    def one(run_id: str, code: str, *, new_session: bool = False) -> subprocess.Popen[bytes]:
        environment, command = {**os.environ, reaper.MARK: run_id}, [sys.executable, "-c", code]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, start_new_session=new_session)
        started.append((run_id, process))
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline() == b"up\n"
        return process

    yield one
    for its_run_id, process in started:
        reaper.kill_until_gone(partial(reaper.ours, its_run_id))
        process.wait(10)


def test_a_whole_tree_ends_though_its_head_is_dead_and_one_left_its_session(start: Start, run_id: str):
    head = start(run_id, TREE)
    wait_until(lambda: len(reaper.ours(run_id)) == 3)
    head.kill()
    head.wait(10)
    wait_until(lambda: len(reaper.ours(run_id)) == 2)
    assert reaper.end_all(run_id, grace_s=0.1) == set()
    assert reaper.ours(run_id) == set()


def test_a_process_of_another_run_is_left_alone(start: Start, run_id: str):
    other = uuid.uuid4().hex
    stranger, mine = start(other, TREE), start(run_id, TREE)
    assert reaper.end_all(run_id, grace_s=0.0) == set()
    assert mine.wait(10) != 0 and stranger.poll() is None


def test_a_process_group_outlives_its_leader_and_is_found(start: Start, run_id: str):
    head = start(run_id, TREE, new_session=True)
    head.kill()
    head.wait(10)
    wait_until(lambda: len(reaper.group_members(head.pid, run_id)) == 1)  # the other one leaves the session first
    assert reaper.kill_until_gone(lambda: reaper.group_members(head.pid, run_id)) == set()
    wait_until(lambda: len(reaper.ours(run_id)) == 1)  # the one that left for a session of its own


def test_a_group_id_that_strangers_use_now_is_not_touched(run_id: str):
    assert reaper.group_members(os.getpgid(0), run_id) == set()


def test_a_zombie_is_not_alive(start: Start, run_id: str):
    process = start(run_id, "print('up', flush=True)")
    wait_until(lambda: not reaper.is_alive(process.pid))
    assert process.pid not in reaper.ours(run_id)
    process.wait(10)


def test_orphans_come_to_a_subreaper(start: Start, run_id: str):
    code = (
        "import os, subprocess, time; from shoal.cluster import reaper; reaper.become_subreaper();"
        "subprocess.Popen(['sh', '-c', 'sleep 120 & exit 0']).wait(); print('up', flush=True); time.sleep(120)"
    )
    head = start(run_id, code)
    wait_until(lambda: len(reaper.ours(run_id)) == 2)  # a process amid its exec shows no environment for a moment
    orphans = reaper.ours(run_id) - {head.pid}
    parent = Path(f"/proc/{orphans.pop()}/stat").read_text().rsplit(") ", 1)[1].split()[1]
    assert int(parent) == head.pid


HOLD = """
import mmap, os, sys, time
fd = os.open("/dev/shm/NAME", os.O_CREAT | os.O_RDWR)
os.ftruncate(fd, 4096)
kept = mmap.mmap(fd, 4096)
os.close(fd)
print("up", flush=True)
time.sleep(120)
"""


@pytest.fixture
def names() -> Iterator[list[str]]:
    mine = [f"shoal-test-{uuid.uuid4().hex}" for _ in range(2)]
    yield mine
    for name in mine:
        Path(reaper.SHM, name).unlink(missing_ok=True)


def test_names_that_our_dead_left_are_removed_and_those_of_others_stay(start: Start, run_id: str, names: list[str]):
    ledger = reaper.ShmLedger()
    Path(reaper.SHM, names[1]).write_bytes(b"a stranger's")
    process = start(run_id, HOLD.replace("NAME", names[0]))
    ledger.look(reaper.ours(run_id))
    assert ledger.mine() == {names[0]}
    assert ledger.remove() == set(), "still in use"
    process.kill()
    process.wait(10)
    assert ledger.remove() == {names[0]}
    assert Path(reaper.SHM, names[1]).exists() and not Path(reaper.SHM, names[0]).exists()


def test_a_name_from_before_the_run_is_never_ours():
    segment = shared_memory.SharedMemory(create=True, size=4096)
    try:
        ledger = reaper.ShmLedger()
        ledger.look({os.getpid()})
        assert segment.name.lstrip("/") not in ledger.mine()
        assert reaper.shm_in_use({os.getpid()}) >= {segment.name.lstrip("/")}
    finally:
        segment.close()
        segment.unlink()


def test_a_new_name_that_bears_the_id_of_one_of_ours_is_ours(start: Start, run_id: str):
    ledger = reaper.ShmLedger()
    process = start(run_id, TREE)
    ledger.look({process.pid})
    path = Path(reaper.SHM, f"torch_{process.pid}_1_0")
    path.write_bytes(b"x")
    try:
        assert path.name in ledger.mine()
    finally:
        path.unlink(missing_ok=True)
