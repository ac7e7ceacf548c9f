"""One benchmark at a time on this machine: two at once would measure each other. The lock ends with the process that
holds it.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from shoal.proto.errors import Overloaded

POLL_S = 0.2


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shoal"


@contextmanager
def bench_lock(name: str, *, wait_s: float = 0.0, folder: Path | None = None) -> Iterator[None]:
    """Raises Overloaded, naming the holder, when the lock is not free within `wait_s`."""
    folder = folder or cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "bench.lock").open("a+") as file:
        _acquire(file, time.monotonic() + wait_s)
        _write(file, json.dumps({"bench": name, "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}))
        try:
            yield
        finally:
            _write(file, "")


def _acquire(file: TextIO, deadline_s: float) -> None:
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                raise Overloaded(
                    f"another benchmark runs: {_holder(file)}; use --wait SECONDS to wait for it"
                ) from None
        time.sleep(POLL_S)


def _holder(file: TextIO) -> str:
    file.seek(0)
    try:
        holder = json.loads(file.read())
        return f"`shoal bench {holder['bench']}`, pid {holder['pid']}, since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "its holder has not written its name yet"


def _write(file: TextIO, text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()


__all__ = ["bench_lock", "cache_folder"]
