"""A piece of shared memory through which blocks go from one process of a node to another.

Its source makes it, its target opens it by name, and then the name is removed at once: from there on the memory ends
with the two processes. The name bears the maker's process id, so that the reaper knows whose it was should the maker
die in between.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import secrets

FOLDER = "/dev/shm"
_NAME = re.compile(r"shoal_move_\d{1,10}_[0-9a-f]{16}")


class NoSegment(Exception):
    """It cannot be made or opened: no shared memory here, or the peer is on another node."""


class Segment:
    """Owns one mapping. `view` is all of it; slices of it must be given back before `close`."""

    def __init__(self, name: str, size_bytes: int, flags: int) -> None:
        if _NAME.fullmatch(name) is None:
            raise NoSegment(f"{name!r:.80} is no name of a segment")
        self.name = name
        try:
            file = os.open(f"{FOLDER}/{name}", flags | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise NoSegment(str(exc)) from None
        try:
            if flags & os.O_CREAT:
                os.posix_fallocate(file, 0, size_bytes)  # or a full /dev/shm is a SIGBUS in the middle of a copy
            self.map = mmap.mmap(file, size_bytes)
        except (OSError, ValueError) as exc:
            if flags & os.O_CREAT:
                self.unlink()
            raise NoSegment(str(exc)) from None
        finally:
            os.close(file)
        self.view = memoryview(self.map)

    @classmethod
    def make(cls, size_bytes: int) -> Segment:
        name = f"shoal_move_{os.getpid()}_{secrets.token_hex(8)}"
        return cls(name, size_bytes, os.O_CREAT | os.O_EXCL)

    @classmethod
    def open(cls, name: str) -> Segment:
        return cls(name, 0, 0)

    def unlink(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{FOLDER}/{self.name}")

    def close(self) -> None:
        self.view.release()
        self.map.close()


__all__ = ["NoSegment", "Segment"]
