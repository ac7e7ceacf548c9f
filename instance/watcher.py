"""One attached stream as the instance sees it: its outbox, bounded, and what one step says to it.

A watcher that does not read is cut off at MAX_FRAMES, never buffered without end. It knows no engine and no request.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from shoal.proto.v1 import instance_pb2 as pb

MAX_FRAMES = 2_000


@dataclass(slots=True, eq=False)
class Watcher:
    """`ended`: gRPC code name and words of a stream that this side ends; nothing is pushed after that.

    `on_overflow` is called once, within `push`, when the reader is MAX_FRAMES behind.
    """

    number: int
    watcher_id: str
    wants_blocks: bool
    on_overflow: Callable[[Watcher], None]
    frames: deque[pb.Down] = field(default_factory=deque)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    sent_s: float = 0.0
    sent_load: pb.Load | None = None
    ended: tuple[str, str] | None = None
    heard: int = 1  # up-frames, Hello included

    def push(self, frame: pb.Down) -> None:
        if self.ended is not None:
            return
        if len(self.frames) >= MAX_FRAMES:
            self.frames.clear()  # it could take for ever to read them
            self.end("RESOURCE_EXHAUSTED", f"reader is {MAX_FRAMES} frames behind")
            self.on_overflow(self)
            return
        self.frames.append(frame)
        self.wake.set()

    def end(self, code: str, words: str) -> None:
        """What was pushed is still sent. The first reason stands."""
        self.ended = self.ended or (code, words)
        self.wake.set()

    async def next(self) -> pb.Down | None:
        """The next frame to send. None: the end."""
        while not self.frames:
            if self.ended is not None:
                return None
            self.wake.clear()
            await self.wake.wait()
        return self.frames.popleft()


@dataclass(slots=True)
class Said:
    """What one step says to one watcher: outputs, and the fence of each."""

    outputs: list[Any] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    indexes: list[int] = field(default_factory=list)

    def add(self, output: Any, epoch: int, index: int) -> None:
        self.outputs.append(output)
        self.epochs.append(epoch)
        self.indexes.append(index)


__all__ = ["MAX_FRAMES", "Said", "Watcher"]
