"""Child processes of a benchmark: started in their own group with a mark in their environment, pinned to cores,
frozen, and always ended. The mark is inherited, so a daemon that a child made is found too.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import psutil

from shoal.cluster.reaper import is_alive, kill_until_gone, send
from shoal.proto.errors import StartFailed

MARK = "SHOAL_BENCH_MARK"
# Process titles are written over the environment, which holds the mark, unless this is set.
KEEP_ENVIRONMENT_READABLE = {"SPT_NOENV": "1"}


class Child:
    """One command with all that it started. Use as a context: whatever happens, nothing of it outlives the block."""

    def __init__(self, name: str, argv: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self.name, self.argv, self.log = name, list(argv), log
        self.mark = secrets.token_hex(8)
        self.environment = {**os.environ, **KEEP_ENVIRONMENT_READABLE, **environment, MARK: self.mark}

    def __enter__(self) -> Child:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def pids(self) -> set[int]:
        """All that lives of it."""
        found = {pid for pid in psutil.pids() if _has_mark(pid, self.mark)}
        with suppress(psutil.NoSuchProcess):
            found |= {child.pid for child in psutil.Process(self.process.pid).children(recursive=True)}
        return {pid for pid in {*found, self.process.pid} if is_alive(pid)}

    def exit_code(self) -> int | None:
        return self.process.poll()

    def stop(self, grace_s: float = 10.0) -> None:
        """SIGTERM to its first process, a time of grace for all, SIGKILL to who is left."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGCONT)
            os.killpg(self.process.pid, signal.SIGTERM)
        deadline_s = time.monotonic() + grace_s
        while self._left() and time.monotonic() < deadline_s:
            time.sleep(0.1)
        if left := kill_until_gone(self._left):
            raise StartFailed(f"{self.name}: processes {sorted(left)} could not be ended")

    def _left(self) -> set[int]:
        self.process.poll()  # collects the first process, which is a zombie otherwise
        return self.pids()

    def fail(self, reason: str) -> StartFailed:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        words = [line.strip() for line in lines if "Error" in line] or lines
        return StartFailed(f"{self.name}: {reason}: {words[-1].strip() if words else 'it said nothing'}")


def _has_mark(pid: int, mark: str) -> bool:
    try:
        return f"{MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def free_port() -> int:
    """A loopback port that nobody listened on just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def pin(pids: Iterable[int], cores: Iterable[int], thread_name: str = "") -> None:
    """All threads of these processes, or those of that name; what they start later inherits it."""
    mask = set(cores)
    for pid in pids:
        with suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                with suppress(OSError):
                    if thread_name in ("", (task / "comm").read_text().strip()):
                        os.sched_setaffinity(int(task.name), mask)


def process_state(pid: int) -> str:
    """The letter of /proc/PID/stat: R, S, D, T (stopped), Z (dead, not collected); empty: no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[0]


def freeze(pids: Iterable[int]) -> None:
    send(pids, signal.SIGSTOP)


def thaw(pids: Iterable[int]) -> None:
    send(pids, signal.SIGCONT)


__all__ = ["MARK", "Child", "free_port", "freeze", "pin", "process_state", "thaw"]
