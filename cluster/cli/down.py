"""`shoal down`: ends a cluster and whatever an earlier one that was killed has left."""

from __future__ import annotations

import argparse
import shutil
import signal
import time

from shoal.cluster import reaper
from shoal.cluster.rundir import RunDir, RunState, find
from shoal.proto.errors import StartFailed

ORDERLY_S = 50.0
LOCK_POLL_S = 0.05


def down(arguments: argparse.Namespace) -> int:
    run = find(arguments.name)
    if run.is_running():
        stop_supervisor(run)
        print("down")
        return 0
    if (left := run.state()) is not None:
        clean_up_after(run, left)
        print("it was not running; what it had left is gone")
        return 0
    print("not running")
    return 0


def stop_supervisor(run: RunDir) -> None:
    """Asks it to end and waits; then takes its place. Raises StartFailed if something still runs."""
    asked = False
    end_s = time.monotonic() + ORDERLY_S
    while run.is_running() and time.monotonic() < end_s:
        state = run.state()
        if state is not None and not asked and reaper.is_alive(state.supervisor_pid):
            reaper.send([state.supervisor_pid], signal.SIGTERM)
            asked = True
        time.sleep(LOCK_POLL_S)
    if (left := run.state()) is not None:
        if run.is_running():
            reaper.send([left.supervisor_pid], signal.SIGKILL)
        clean_up_after(run, left)


def clean_up_after(run: RunDir, left: RunState) -> None:
    """A supervisor that was killed could not. The run's mark is on every process that it started."""
    remaining = reaper.end_all(left.run_id)
    if remaining:
        raise StartFailed(f"processes {sorted(remaining)} of an earlier run do not end")
    reaper.remove_unused(set(left.shm))
    if left.ray_dir:
        shutil.rmtree(left.ray_dir, ignore_errors=True)
    run.clear()


__all__ = ["clean_up_after", "down", "stop_supervisor"]
