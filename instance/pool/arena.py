"""The node's block memory: one file per segment in /dev/shm (or in a folder on disk, for the cold tier), mapped by
everybody on the node.

A file is a table of headers, then slots of one size. The pool node makes, fills in headers of, and removes files;
writers write into the slots that they reserved, readers copy and verify. Its memory is taken when a file is made, so
that a full /dev/shm is a refusal and not a SIGBUS. The owner holds a lock on each file for as long as it lives: whoever
can take the lock may remove the file.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from shoal.instance.pool.seal import HEADER, Header, Sealer
from shoal.instance.pool.slots import Place
from shoal.proto.errors import Overloaded, Unavailable

SHM = Path("/dev/shm")
PREFIX = "shoal-pool-"
HEADER_STRIDE = 128
PAGE = mmap.PAGESIZE
Bytes = np.ndarray  # of uint8, one dimension


def _rounded(size: int) -> int:
    return -(-size // PAGE) * PAGE


class SegmentMap:
    """One mapped file. Views into it keep the mapping alive after `close`, also when the file is gone."""

    def __init__(self, fd: int, slots: int, slot_bytes: int) -> None:
        self.slot_bytes, self.stride = slot_bytes, _rounded(slot_bytes)
        self._start = _rounded(slots * HEADER_STRIDE)
        size = self._start + slots * self.stride
        if os.fstat(fd).st_size < size:
            raise Unavailable(f"a segment of {os.fstat(fd).st_size} bytes is shorter than its {slots} slots")
        in_memory = os.fstat(fd).st_dev == os.stat(SHM).st_dev
        flags = mmap.MAP_SHARED | (mmap.MAP_POPULATE if in_memory else 0)  # page faults are paid here, not by a copy
        self.bytes: Bytes = np.frombuffer(mmap.mmap(fd, size, flags=flags), dtype=np.uint8)

    def slot(self, index: int, length: int | None = None) -> Bytes:
        start = self._start + index * self.stride
        return self.bytes[start : start + (self.slot_bytes if length is None else length)]

    def header(self, index: int) -> Header:
        start = index * HEADER_STRIDE
        return Header.unpack(self.bytes[start : start + HEADER.size])

    def set_header(self, index: int, header: Header | None) -> None:
        data = header.pack() if header else bytes(HEADER.size)
        self.bytes[index * HEADER_STRIDE : index * HEADER_STRIDE + HEADER.size] = np.frombuffer(data, dtype=np.uint8)


def mapped(path: Path, slots: int, slot_bytes: int) -> SegmentMap:
    """Through its name, by the owner too: whoever tidies /dev/shm sees in /proc/PID/maps who uses it. Raises OSError;
    Unavailable for a file that is too short.
    """
    fd = os.open(path, os.O_RDWR)
    try:
        return SegmentMap(fd, slots, slot_bytes)
    finally:
        os.close(fd)


def copy_verified(segment: SegmentMap, place: Place, key: bytes, pieces: Sequence[Bytes], sealer: Sealer) -> bool:
    """Copies a block into `pieces` (which together have its length) and tells whether what arrived is that block."""
    header = segment.header(place.index)
    length = sum(piece.nbytes for piece in pieces)
    if (header.length, header.generation) != (length, place.generation) or length > segment.slot_bytes:
        return False  # before anything is copied
    source, at = segment.slot(place.index), 0
    for piece in pieces:
        np.copyto(piece, source[at : at + piece.nbytes])
        at += piece.nbytes
    return sealer.fits(header, key, place.generation, pieces)


def write_block(segment: SegmentMap, index: int, pieces: Sequence[Bytes]) -> int:
    """Copies a block into a reserved slot. Returns its length in bytes."""
    target, at = segment.slot(index), 0
    for piece in pieces:
        np.copyto(target[at : at + piece.nbytes], piece)
        at += piece.nbytes
    return at


class Arena:
    """The owner's side. Sole maker and remover of the files of one prefix."""

    def __init__(self, folder: Path, slots: int, slot_bytes: int, *, node: str) -> None:
        self.folder, self.slots, self.slot_bytes = folder, slots, slot_bytes
        self.prefix = f"{PREFIX}{node}-{os.getpid()}-{os.urandom(4).hex()}-"
        self.segments: dict[int, SegmentMap] = {}
        self._fds: dict[int, int] = {}
        sweep(folder)

    def add(self, serial: int) -> None:
        """Raises Overloaded where the file system has no room for it; nothing is left then."""
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        fd = os.open(self.folder, os.O_TMPFILE | os.O_RDWR, 0o600)
        try:
            size = _rounded(self.slots * HEADER_STRIDE) + self.slots * _rounded(self.slot_bytes)
            os.posix_fallocate(fd, 0, size)
            fcntl.flock(fd, fcntl.LOCK_EX)
            # It gets its name locked and whole. Naming a folder is what makes Python follow the link to the file.
            os.link(f"/proc/self/fd/{fd}", self.path(serial).name, dst_dir_fd=folder, follow_symlinks=True)
            segment = mapped(self.path(serial), self.slots, self.slot_bytes)  # by name, see there
        except OSError as exc:
            os.close(fd)
            self.path(serial).unlink(missing_ok=True)
            raise Overloaded(f"{self.folder}: no room for a segment of {self.slots} blocks: {exc}") from None
        finally:
            os.close(folder)
        self.segments[serial], self._fds[serial] = segment, fd

    def drop(self, serial: int) -> None:
        segment = self.segments.pop(serial)
        for index in range(self.slots):
            segment.set_header(index, None)  # whoever still has it mapped finds nothing
        self.path(serial).unlink(missing_ok=True)
        os.close(self._fds.pop(serial))

    def path(self, serial: int) -> Path:
        return self.folder / f"{self.prefix}{serial}"

    def close(self) -> None:
        for serial in list(self.segments):
            self.drop(serial)


class ArenaView:
    """The side of everybody else: maps segments as places name them, and forgets those that are gone."""

    def __init__(self, prefixes: Sequence[str], slots: int, slot_bytes: int) -> None:
        """`prefixes`: folder and beginning of the files' names, one per tier."""
        self.prefixes, self.slots, self.slot_bytes = prefixes, slots, slot_bytes
        self._segments: dict[int, SegmentMap] = {}

    def segment(self, serial: int) -> SegmentMap:
        """Raises Unavailable: no such segment, at least no longer."""
        found = self._segments.get(serial)
        if found is None:
            paths = [path for prefix in self.prefixes if (path := Path(f"{prefix}{serial}")).exists()]
            try:
                found = self._segments[serial] = mapped(paths[0], self.slots, self.slot_bytes)
            except (IndexError, OSError) as exc:
                raise Unavailable(f"segment {serial}: {exc}") from None
        return found

    def forget(self, serials: Iterable[int]) -> None:
        for serial in serials:
            self._segments.pop(serial, None)


def sweep(folder: Path) -> list[str]:
    """Removes the files of owners that are dead. Returns their names."""
    removed = []
    for path in folder.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                removed.append(path.name)
            finally:
                os.close(fd)
    return removed


__all__ = ["PREFIX", "SHM", "Arena", "ArenaView", "Bytes", "SegmentMap", "copy_verified", "sweep", "write_block"]
