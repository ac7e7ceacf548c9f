"""Ends processes and removes what they left in /dev/shm: only our own, whatever became of their parents.

Ours is who carries this run's mark in its environment (children inherit it, and a double fork or a new session does not
shed it), or is a descendant of the process that asks. A /dev/shm name is ours if one of our processes was seen to have
it mapped or open, or if it appeared during the run and bears the id of one of our processes. No name that a living
process still uses is removed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

MARK = "SHOAL_RUN_ID"
SHM = "/dev/shm/"
KILL = signal.SIGKILL
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")


def become_subreaper() -> None:
    """From now on an orphan below this process becomes its child instead of init's."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent_pid: int) -> None:
    """SIGTERM to this process when its parent ends, also if that was before the call."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGTERM)


def is_marked(pid: int, run_id: str) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return f"{MARK}={run_id}".encode() in environment.split(b"\0")


def is_alive(pid: int) -> bool:
    """False for a zombie too: it holds no port, no memory and no file."""
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def ours(run_id: str, *, root_pid: int | None = None) -> set[int]:
    """Living processes of this run, `root_pid` and the caller left out."""
    found = {pid for pid in psutil.pids() if is_marked(pid, run_id)}
    if root_pid is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            found |= {child.pid for child in psutil.Process(root_pid).children(recursive=True)}
    return {pid for pid in found - {os.getpid(), root_pid} if is_alive(pid)}


def group_members(pgid: int, run_id: str) -> set[int]:
    """Living processes of this run in that process group. The mark guards against a group id that was used again."""
    members = set()
    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            if os.getpgid(pid) == pgid and is_marked(pid, run_id) and is_alive(pid):
                members.add(pid)
    return members


def collect_zombies() -> dict[int, int]:
    """Waits for every child that has ended: pid -> exit status, negative for a signal."""
    ended: dict[int, int] = {}
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended[found[0]] = os.waitstatus_to_exitcode(found[1])
    return ended


def send(pids: Iterable[int], signal_number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal_number)


def kill_until_gone(find: Callable[[], set[int]], *, patience_s: float = 10.0, poll_s: float = 0.02) -> set[int]:
    """SIGKILL to everybody whom `find` names, again until it names nobody. Returns who is left after `patience_s`."""
    deadline_s = time.monotonic() + patience_s
    while left := find():
        if time.monotonic() > deadline_s:
            return left
        send(left, signal.SIGKILL)
        time.sleep(poll_s)
    return set()


def end_all(run_id: str, *, root_pid: int | None = None, grace_s: float = 2.0, patience_s: float = 10.0) -> set[int]:
    """SIGTERM, a moment of grace, then SIGKILL, to every process of the run. Returns who is left: nobody, normally."""

    def find() -> set[int]:
        return ours(run_id, root_pid=root_pid)

    send(find(), signal.SIGTERM)
    deadline_s = time.monotonic() + grace_s
    while find() and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return kill_until_gone(find, patience_s=patience_s)


def shm_names() -> set[str]:
    try:
        return set(os.listdir(SHM))
    except OSError:
        return set()


def shm_in_use(pids: Iterable[int]) -> set[str]:
    """Names in /dev/shm that these processes have mapped or open."""
    used: set[str] = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines():
                if (at := line.find(SHM)) >= 0:
                    used.add(_top_name(line[at:]))
        with contextlib.suppress(OSError):
            for fd in os.scandir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    if (target := os.readlink(fd.path)).startswith(SHM):
                        used.add(_top_name(target))
    return used


def _top_name(path: str) -> str:
    return path.removeprefix(SHM).removesuffix(" (deleted)").split("/")[0]


class ShmLedger:
    """Owns what is known of whose the /dev/shm names are. `look` often: a name is learnt while it is in use."""

    def __init__(self) -> None:
        self.before = shm_names()
        self.seen: set[str] = set()
        self.pids: set[int] = set()

    def look(self, pids: Iterable[int]) -> None:
        pids = set(pids)
        self.pids |= pids
        self.seen |= shm_in_use(pids) - self.before

    def mine(self) -> set[str]:
        """Names to remove once nobody uses them: seen in use by ours, or new and bearing the id of one of ours."""
        new = shm_names() - self.before
        bears_id = {n for n in new if any(int(d) in self.pids for d in re.findall(r"(?<!\d)\d{2,10}(?!\d)", n))}
        return (self.seen | bears_id) & new

    def remove(self) -> set[str]:
        """Unlinks what is ours and unused. Returns what it removed."""
        return remove_unused(self.mine())


def remove_unused(names: set[str]) -> set[str]:
    removed = set()
    for name in names - shm_in_use(psutil.pids()) if names else ():
        with contextlib.suppress(OSError):
            os.unlink(SHM + name)
            removed.add(name)
    return removed


__all__ = [
    "KILL",
    "MARK",
    "ShmLedger",
    "become_subreaper",
    "collect_zombies",
    "die_with_parent",
    "end_all",
    "group_members",
    "is_alive",
    "is_marked",
    "kill_until_gone",
    "ours",
    "remove_unused",
    "send",
    "shm_in_use",
    "shm_names",
]
