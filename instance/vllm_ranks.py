"""Blocks of an engine whose ranks are processes: each moves its own shard between its tensors and one staging memory,
on a thread of its own, so that neither the engine's steps nor vLLM's message queue to its workers are touched.

The memory has no name, and the socket's folder is gone once all have connected: nothing stays behind, whoever dies.
Every wait has an end; after one that was too long the link counts as broken and says so.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from shoal.instance.vllm_blocks import BlockCopier, copy_bytes

WAIT_S = 10.0  # for one order to one rank: 32 blocks are milliseconds
STAGED_BLOCKS = 32
GATHER, SCATTER, DONE, FAILED = b"G", b"S", b"D", b"F"
ORDER = struct.Struct("<cI")  # act, number of block ids; they follow, 4 bytes each
HELLO = struct.Struct("<Q")  # from a rank: bytes of a whole block


class RanksLost(Exception):
    """A worker process does not answer."""


def _exactly(link: socket.socket, size: int) -> bytes:
    """Raises ConnectionError at the stream's end."""
    data = bytearray()
    while len(data) < size:
        if not (piece := link.recv(size - len(data))):
            raise ConnectionError("closed")
        data += piece
    return bytes(data)


# -- in a worker


def serve_blocks(path: str, copier: BlockCopier) -> None:
    """Connect to the engine's process and do as it says until it is gone. Runs on a thread of its own."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(WAIT_S)
        link.connect(path)
        link.sendall(HELLO.pack(copier.block_bytes))
        _data, (fd,), _flags, _address = socket.recv_fds(link, 1, 1)
        staging = mmap.mmap(fd, STAGED_BLOCKS * copier.block_bytes)
        os.close(fd)
        link.settimeout(None)  # an order may be long in coming; the other end's death ends the stream
        try:
            while True:
                _serve_one(link, copier, memoryview(staging))
        except ConnectionError:
            return


def _serve_one(link: socket.socket, copier: BlockCopier, staging: memoryview) -> None:
    act, count = ORDER.unpack(_exactly(link, ORDER.size))
    ids = struct.unpack(f"<{count}I", _exactly(link, 4 * count))
    try:
        (copier.gather if act == GATHER else copier.scatter)(ids, staging)
        answer = DONE
    except Exception:  # an id out of range, say: that order's fault, and the asker is told
        answer = FAILED
    link.sendall(answer)


# -- in the engine's process


class RankedCopier:
    """Like BlockCopier, for all ranks. Owns the staging memory and one link per rank; one copy at a time."""

    def __init__(self, start: Callable[[str], Any], ranks: int) -> None:
        """`start` tells every worker to call `serve_blocks` with the given path."""
        self.lock = threading.Lock()
        self.lost = False
        with tempfile.TemporaryDirectory(prefix="shoal-ranks-") as folder, socket.socket(socket.AF_UNIX) as listener:
            path = str(Path(folder) / "blocks")
            listener.bind(path)
            listener.listen(ranks)
            listener.settimeout(WAIT_S)
            start(path)
            self.links = [listener.accept()[0] for _ in range(ranks)]
        for link in self.links:
            link.settimeout(WAIT_S)
        (self.block_bytes,) = {HELLO.unpack(_exactly(link, HELLO.size))[0] for link in self.links}
        self.staging = self._share(STAGED_BLOCKS * self.block_bytes)

    def _share(self, size_bytes: int) -> mmap.mmap:
        fd = os.memfd_create("shoal-ranks")
        try:
            os.ftruncate(fd, size_bytes)
            for link in self.links:
                socket.send_fds(link, [b"m"], [fd])
            return mmap.mmap(fd, size_bytes)
        finally:
            os.close(fd)

    def gather(self, block_ids: Sequence[int], into: Any) -> None:
        """Raises RanksLost."""
        for ids, part in self._parts(block_ids, into):
            with self.lock:
                self._order(GATHER, ids)
                copy_bytes(self.staging, part, len(part))

    def scatter(self, block_ids: Sequence[int], data: Any) -> None:
        """Raises RanksLost."""
        writable = bytearray(data) if memoryview(data).readonly else data
        for ids, part in self._parts(block_ids, writable):
            with self.lock:
                copy_bytes(part, self.staging, len(part))
                self._order(SCATTER, ids)

    def _parts(self, block_ids: Sequence[int], memory: Any) -> list[tuple[Sequence[int], memoryview]]:
        size = self.block_bytes
        return [
            (ids, memoryview(memory)[first * size : (first + len(ids)) * size])
            for first in range(0, len(block_ids), STAGED_BLOCKS)
            if (ids := block_ids[first : first + STAGED_BLOCKS])
        ]

    def _order(self, act: bytes, block_ids: Sequence[int]) -> None:
        if self.lost:
            raise RanksLost("a rank did not answer before")
        order = ORDER.pack(act, len(block_ids)) + struct.pack(f"<{len(block_ids)}I", *block_ids)
        try:
            for link in self.links:
                link.sendall(order)
            answers = [_exactly(link, 1) for link in self.links]
        except OSError as exc:
            self.lost = True  # an answer that comes late would be taken for that of the next order
            raise RanksLost(f"{type(exc).__name__}: {exc}") from exc
        if answers != [DONE] * len(self.links):
            raise RanksLost("a rank could not copy")

    def close(self) -> None:
        for link in self.links:
            link.close()


def block_copier(core: Any) -> BlockCopier | RankedCopier:
    """Of all ranks of that EngineCore."""
    ranks = core.vllm_config.parallel_config.world_size
    if ranks > 1:
        return RankedCopier(lambda path: core.collective_rpc("shoal_serve_blocks", args=(path, ranks)), ranks)
    copier: BlockCopier = core.collective_rpc("shoal_block_copier")[0]
    return copier


__all__ = ["RankedCopier", "RanksLost", "block_copier", "serve_blocks"]
