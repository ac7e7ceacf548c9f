"""The run directory of a cluster: its supervisor, addresses, token and logs. One per cluster name and user.

Private to the user (0700, files 0600). `lock` is held by the supervisor for as long as it lives, so that a stale
`state.json` never looks like a running cluster. Only the supervisor writes here after start; everybody else reads.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from shoal.proto.errors import StartFailed

DEFAULT_NAME = "default"
SUPERVISOR_PID = "SHOAL_SUPERVISOR_PID"  # tells the head whose death is its own


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    """phase: starting | up | stopping | failed. `error` is one line for a person."""

    run_id: str
    supervisor_pid: int
    phase: str = "starting"
    step: str = ""
    error: str = ""
    controller: str = ""
    http: str = ""
    grpc: str = ""
    model: str = ""
    started_s: float = 0.0  # wall clock
    ray_dir: str = ""
    shm: tuple[str, ...] = ()  # names in /dev/shm to remove, should the supervisor be killed before it can


@dataclass(frozen=True, slots=True)
class RunDir:
    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def log(self) -> Path:
        return self.logs / "supervisor.log"

    def make(self) -> None:
        for folder in (self.path, self.logs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)

    def write(self, name: str, data: bytes) -> None:
        """Whole or not at all, and readable by the owner only."""
        path, draft = self.path / name, self.path / f".{name}.{os.getpid()}"
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        os.replace(draft, path)

    def write_state(self, state: RunState) -> None:
        self.write("state.json", msgspec.json.encode(state))

    def state(self) -> RunState | None:
        """The last state written; None where there is none that can be read."""
        try:
            return msgspec.json.decode((self.path / "state.json").read_bytes(), type=RunState)
        except (OSError, msgspec.MsgspecError):
            return None

    def token(self) -> str:
        try:
            return (self.path / "token").read_text()
        except OSError:
            return ""

    def lock(self) -> IO[bytes] | None:
        """The supervisor's lock, or None: another one holds it. Held until the file is closed or the process ends."""
        self.make()
        file = open(self.path / "lock", "ab")  # noqa: SIM115 - it is the caller's to keep open
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        return file

    def is_running(self) -> bool:
        if not (self.path / "lock").exists():
            return False
        file = self.lock()
        if file is None:
            return True
        file.close()
        return False

    def clear(self) -> None:
        """Forget the cluster; logs stay. So does the lock file: without it two supervisors could lock two files."""
        for name in ("state.json", "config.json", "token"):
            with contextlib.suppress(FileNotFoundError):
                (self.path / name).unlink()


def find(name: str = DEFAULT_NAME) -> RunDir:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name):
        raise StartFailed(f"name: must be 1 to 40 of [A-Za-z0-9_-], given {name!r}")
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and os.access(runtime, os.W_OK):
        return RunDir(Path(runtime) / "shoal" / name)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return RunDir(Path(cache) / "shoal" / "run" / name)


__all__ = ["DEFAULT_NAME", "SUPERVISOR_PID", "RunDir", "RunState", "find"]
