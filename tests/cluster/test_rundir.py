"""What the run directory promises: private, whole, and one supervisor at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.cluster.rundir import RunDir, RunState, find
from shoal.proto.errors import StartFailed


def test_only_one_holds_the_lock_and_its_end_frees_it(tmp_path: Path):
    run = RunDir(tmp_path / "c")
    held = run.lock()
    assert held is not None and run.lock() is None and run.is_running()
    held.close()
    assert not run.is_running()


def test_files_are_the_owners_only_and_nothing_is_left_half_written(tmp_path: Path):
    run = RunDir(tmp_path / "c")
    run.make()
    run.write("token", b"t")
    run.write("token", b"token")
    assert run.token() == "token"
    assert (run.path / "token").stat().st_mode & 0o777 == 0o600 and run.path.stat().st_mode & 0o777 == 0o700
    assert {p.name for p in run.path.iterdir()} == {"token", "logs"}


def test_a_state_that_cannot_be_read_is_no_state(tmp_path: Path):
    run = RunDir(tmp_path / "c")
    run.make()
    assert run.state() is None
    run.write_state(RunState(run_id="a", supervisor_pid=1))
    assert run.state() == RunState(run_id="a", supervisor_pid=1)
    run.write("state.json", b"{")
    assert run.state() is None


def test_clearing_keeps_logs_and_the_lock(tmp_path: Path):
    run = RunDir(tmp_path / "c")
    held = run.lock()
    run.write("token", b"t")
    run.clear()
    assert {p.name for p in run.path.iterdir()} == {"lock", "logs"}
    assert held is not None
    held.close()


def test_a_name_cannot_leave_its_folder():
    with pytest.raises(StartFailed, match="name: must be"):
        find("../elsewhere")
