import os
import signal
import sys
import time
from collections.abc import Callable

import pytest

from shoal.bench.processes import Child, free_port, freeze, pin, process_state, thaw
from shoal.proto.errors import StartFailed

SLEEP = "import time; time.sleep(600)"
DAEMON = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEP!r}], start_new_session=True)"


def until(true: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def child(code: str, tmp_path) -> Child:
    return Child("child", [sys.executable, "-c", code], tmp_path / "log", {})


def test_a_daemon_whose_parent_is_gone_is_found_and_ended(tmp_path):
    with child(DAEMON, tmp_path) as one:
        until(lambda: one.exit_code() == 0)
        (daemon,) = one.pids()
        one.stop(grace_s=0.2)
    until(lambda: process_state(daemon) in ("", "Z"))


def test_who_ignores_sigterm_is_killed(tmp_path):
    with child(
        f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); {SLEEP}", tmp_path
    ) as one:
        until(lambda: (tmp_path / "log").read_text() == "1\n")
        one.stop(grace_s=0.2)
        assert one.exit_code() == -signal.SIGKILL


def test_a_frozen_child_is_ended_too(tmp_path):
    with child(SLEEP, tmp_path) as one:
        freeze(one.pids())
        until(lambda: process_state(one.process.pid) == "T")
    assert one.exit_code() is not None


def test_freeze_and_thaw(tmp_path):
    with child(SLEEP, tmp_path) as one:
        freeze(one.pids())
        until(lambda: process_state(one.process.pid) == "T")
        thaw(one.pids())
        until(lambda: process_state(one.process.pid) in ("S", "R"))


def test_pinning_reaches_every_thread(tmp_path):
    thread = "import threading, time; threading.Thread(target=time.sleep, args=(600,), daemon=True).start()"
    code = f"{thread}; print(1, flush=True); {SLEEP}"
    core = min(os.sched_getaffinity(0))
    with child(code, tmp_path) as one:
        until(lambda: (tmp_path / "log").read_text() == "1\n")
        pin({one.process.pid, 2**22 + 1}, {core})
        tasks = [int(task) for task in os.listdir(f"/proc/{one.process.pid}/task")]
        assert len(tasks) == 2
        assert all(os.sched_getaffinity(task) == {core} for task in tasks)


def test_pinning_by_name_leaves_the_other_threads_alone(tmp_path):
    code = f"open('/proc/self/comm', 'w').write('stepping'); print(1, flush=True); {SLEEP}"
    cores = os.sched_getaffinity(0)
    with child(code, tmp_path) as one:
        until(lambda: (tmp_path / "log").read_text() == "1\n")
        pin({one.process.pid}, {min(cores)}, "of-another-name")
        assert os.sched_getaffinity(one.process.pid) == cores
        pin({one.process.pid}, {min(cores)}, "stepping")
        assert os.sched_getaffinity(one.process.pid) == {min(cores)}


def test_why_it_could_not_start_is_one_line(tmp_path):
    with child("print('noise'); raise ValueError('no such model')", tmp_path) as one:
        until(lambda: one.exit_code() is not None)
        with pytest.raises(StartFailed, match=r"^child: ended: ValueError: no such model$"):
            raise one.fail("ended")


def test_a_free_port_can_be_bound():
    assert 1024 < free_port() < 65536


def test_no_process_has_no_state():
    assert process_state(2**22 + 1) == ""
