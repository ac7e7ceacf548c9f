"""A TCP proxy that hurts what passes: delay, rate, byte flips, truncation, reset, black hole, duplicates; each
direction by its own `Faults`.

Faults may be changed while connections are open and act on bytes read from then on. `counts` says what was really done,
so that a test can fail where a fault did not take effect. Chance comes from the given generator, offsets count from
each connection's start.
"""

import asyncio
import contextlib
import random
import socket
import struct
from dataclasses import dataclass

CHUNK_BYTES = 16 << 10
QUEUE_CHUNKS = 64


@dataclass
class Faults:
    """None or 0 = off. A frozen link is `black_hole`: bytes are read and dropped, the connection stays open."""

    delay_s: float = 0.0
    rate_bytes_per_s: float | None = None
    flip_one_in_bytes: int | None = None
    truncate_after_bytes: int | None = None
    reset_after_bytes: int | None = None
    duplicate_one_in_chunks: int | None = None
    black_hole: bool = False


@dataclass
class Counts:
    passed_bytes: int = 0
    delayed_chunks: int = 0
    throttled_s: float = 0.0
    flipped_bytes: int = 0
    truncated: int = 0
    resets: int = 0
    duplicated_chunks: int = 0
    swallowed_bytes: int = 0


class Cut(Exception):
    """The rest of this connection is not to pass; `reset`: say so with RST, else with an orderly end."""

    def __init__(self, reset: bool) -> None:
        super().__init__(reset)
        self.reset = reset


class Link:
    """One direction of all connections: what to do to its bytes, and what was done."""

    def __init__(self, rng: random.Random) -> None:
        self.faults = Faults()
        self.counts = Counts()
        self._rng = rng

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until the end of input; raises Cut. Reading and writing are apart, so that a delay costs no throughput."""
        queue: asyncio.Queue[tuple[float, bytes, bool | None]] = asyncio.Queue(QUEUE_CHUNKS)
        feeding = asyncio.create_task(self._feed(reader, queue))
        try:
            await self._drain(queue, writer)
        finally:
            feeding.cancel()

    async def _feed(self, reader: asyncio.StreamReader, queue: asyncio.Queue[tuple[float, bytes, bool | None]]) -> None:
        offset, reset = 0, None
        clock = asyncio.get_running_loop().time
        with contextlib.suppress(ConnectionError):
            while reset is None and (data := await reader.read(CHUNK_BYTES)):
                if self.faults.black_hole:
                    self.counts.swallowed_bytes += len(data)
                    continue
                data, reset = self._cut(data, offset)
                offset += len(data)
                if self.faults.delay_s:
                    self.counts.delayed_chunks += 1
                await queue.put((clock() + self.faults.delay_s, self._duplicate(self._flip(data)), None))
        await queue.put((0.0, b"", bool(reset)))

    async def _drain(
        self, queue: asyncio.Queue[tuple[float, bytes, bool | None]], writer: asyncio.StreamWriter
    ) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due_s, data, end = await queue.get()
            if end is not None:
                if end:
                    raise Cut(reset=True)
                return
            await asyncio.sleep(max(0.0, due_s - clock()))
            await self._throttle(len(data))
            writer.write(data)
            await writer.drain()
            self.counts.passed_bytes += len(data)

    async def _throttle(self, n_bytes: int) -> None:
        if self.faults.rate_bytes_per_s:
            wait_s = n_bytes / self.faults.rate_bytes_per_s
            self.counts.throttled_s += wait_s
            await asyncio.sleep(wait_s)

    def _cut(self, data: bytes, offset: int) -> tuple[bytes, bool | None]:
        """What may still pass, and how the connection then ends (None: it goes on)."""
        for limit, reset in ((self.faults.reset_after_bytes, True), (self.faults.truncate_after_bytes, False)):
            if limit is not None and offset + len(data) >= limit:
                self.counts.resets += reset
                self.counts.truncated += not reset
                return data[: max(0, limit - offset)], reset
        return data, None

    def _flip(self, data: bytes) -> bytes:
        if not self.faults.flip_one_in_bytes:
            return data
        flipped = bytearray(data)
        for i in range(len(flipped)):
            if self._rng.randrange(self.faults.flip_one_in_bytes) == 0:
                flipped[i] ^= 1 << self._rng.randrange(8)
                self.counts.flipped_bytes += 1
        return bytes(flipped)

    def _duplicate(self, data: bytes) -> bytes:
        if (
            self.faults.duplicate_one_in_chunks
            and data
            and self._rng.randrange(self.faults.duplicate_one_in_chunks) == 0
        ):
            self.counts.duplicated_chunks += 1
            return data + data
        return data


class FaultProxy:
    """`async with FaultProxy(host, port) as proxy:` then connect to `proxy.port`. `up` is towards the server."""

    def __init__(self, host: str, port: int, *, seed: int = 0) -> None:
        rng = random.Random(seed)
        self.up, self.down = Link(rng), Link(rng)
        self.port = 0
        self.connections = 0
        self._target = (host, port)
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "FaultProxy":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self.drop_all()

    async def drop_all(self) -> None:
        """Resets every open connection."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def heal(self) -> None:
        """No faults from now on. What was swallowed stays lost."""
        self.up.faults, self.down.faults = Faults(), Faults()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            await self._carry(reader, writer)
        except asyncio.CancelledError:
            _reset(writer)
        finally:
            self._tasks.discard(task)
            _close(writer)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            return _reset(writer)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pass(self.up, reader, far_writer))
                group.create_task(_pass(self.down, far_reader, writer))
        except* (Cut, ConnectionError):
            _reset(writer)
            _reset(far_writer)
        finally:
            _close(far_writer)


async def _pass(link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await link.pump(reader, writer)
    with contextlib.suppress(OSError):
        writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """The peer sees RST: no lingering, then an abrupt end."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError, AttributeError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _close(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        writer.close()


__all__ = ["Counts", "FaultProxy", "Faults", "Link"]
