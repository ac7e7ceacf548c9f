"""Lowers and restores the priority of a process with all its threads; lowers only where the system lets us undo it."""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path

_CAP_SYS_NICE = 23


def can_restore() -> bool:
    """Without the capability a process may become nicer but never again as it was."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        effective = next(line for line in lines if line.startswith("CapEff:"))
        if int(effective.split()[1], 16) >> _CAP_SYS_NICE & 1:
            return True
    return resource.getrlimit(resource.RLIMIT_NICE)[0] >= 20


def renice(pid: int, niceness: int) -> bool:
    """Every thread that exists; later ones inherit. False where it was not done."""
    if not can_restore():
        return False
    try:
        for _ in range(2):  # the second round meets threads that were born of old ones during the first
            for thread in os.listdir(f"/proc/{pid}/task"):
                with contextlib.suppress(ProcessLookupError):
                    os.setpriority(os.PRIO_PROCESS, int(thread), niceness)
    except OSError:
        return False
    return True


__all__ = ["can_restore", "renice"]
