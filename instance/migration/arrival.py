"""One request on its way in: parcels become the target machine's events, its commands are performed, and each parcel is
answered by one receipt.

Owns the lease and the mapping of the source's segment. What gives back is asked of the threads after what takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass

from shoal.instance.frames import held_of
from shoal.instance.holdings import Held
from shoal.instance.migration import target as words
from shoal.instance.migration.home import Copier, Home, on_step_thread
from shoal.instance.migration.segment import NoSegment, Segment
from shoal.instance.migration.target import Target
from shoal.instance.migration.words import Patience
from shoal.instance.mover import Lease, Mover, NoRoom, RequestState
from shoal.instance.seam import Prepared, Refused
from shoal.proto.errors import BadMessage
from shoal.proto.failpoints import ahit, hit
from shoal.proto.tracing import NOTHING, Span, begin
from shoal.proto.v1 import instance_pb2 as pb


@dataclass(frozen=True, slots=True)
class Room:
    """What all arrivals of an instance share."""

    home: Home
    copier: Copier
    patience: Patience


class Arrival:
    """`output`: of the request, as far as the source has told."""

    def __init__(self, room: Room) -> None:
        self.room, self.home, self.copier = room, room.home, room.copier
        self.mover: Mover = room.home.engine.mover
        self.machine = Target(patience=room.patience)
        self.open = pb.Open()
        self.parcel = pb.Parcel()
        self.output: list[int] = []
        self.segment: Segment | None = None
        self.span: Span = NOTHING
        self.lease: Lease | None = None  # the step thread's
        self.sealing: Future[None] | None = None  # the last one: the next parcel may come meanwhile
        self.ending: asyncio.Task[None] | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.open.move_id, self.open.submit.request_id

    async def take(self, parcel: pb.Parcel) -> pb.Receipt:
        """Exactly one receipt, be it that it is declined."""
        self.parcel = parcel
        events: deque[words.Event] = deque([self._event_of(parcel)])
        while events:
            for command in self.machine.feed(events.popleft(), self.home.clock()):
                done = await self._perform(command)
                if isinstance(done, pb.Receipt):
                    return done
                if done is not None:
                    events.append(done)
        return pb.Receipt(declined=pb.Declined(reason="it is over"))

    def _event_of(self, parcel: pb.Parcel) -> words.Event:
        match parcel.WhichOneof("parcel"):
            case "open" if not self.open.move_id:
                self.open, self.output = parcel.open, list(parcel.open.submit.delivered)
                self.span = begin("arrival", parcel.open.traceparent, source=parcel.open.source)
                return words.OpenCame(len(parcel.open.hashes))
            case "blocks":
                return words.BlocksCame(tuple(parcel.blocks.positions))
            case "prepare":
                return words.PrepareCame()
        return words.Failed(f"a parcel of kind {parcel.WhichOneof('parcel')} makes no sense here")

    async def _perform(self, command: words.Command) -> words.Event | pb.Receipt | None:
        try:
            match command:
                case words.Lease():
                    return await self._lease()
                case words.Install(positions, sealed):
                    return await self._install(positions, sealed)
                case words.Hold(tail):
                    return await self._hold(tail)
                case words.SayOpened(missing):
                    return pb.Receipt(opened=pb.Opened(missing=missing, shared_memory=self.segment is not None))
                case words.SayInstalled():
                    return pb.Receipt(installed=pb.Installed())
                case words.SayPrepared():
                    await ahit("arrival.prepared")
                    return pb.Receipt(prepared=pb.Prepared())
                case words.Decline(reason, no_room):
                    return pb.Receipt(declined=pb.Declined(reason=reason[:500], no_room=no_room))
                case words.Drop():
                    self._end()
        except NoRoom as exc:
            return words.Failed(str(exc), no_room=True)
        except (Refused, BadMessage, NoSegment) as exc:
            return words.Failed(str(exc))
        except Exception as exc:  # a fault of one move must not end the stream without a word
            return words.Failed(f"{type(exc).__name__}: {exc}")
        return None

    # -- acts

    async def _lease(self) -> words.Event:
        await ahit("arrival.lease")
        if self.home.draining:
            return words.Failed("it is being drained")
        if self.open.fingerprint != self.mover.fingerprint:
            return words.Failed("its engine is not like this one")
        if self.open.shared_memory:
            with contextlib.suppress(NoSegment):  # the source is on another node
                self.segment = Segment.open(self.open.shared_memory)
        _held, submission = held_of(self.open.submit, watcher=0, frontend="")
        prepared = self.home.engine.prepare(submission)
        hashes = tuple(self.open.hashes)
        return words.Leased(await on_step_thread(self.home, lambda: self._lease_now(prepared, hashes)))

    def _lease_now(self, prepared: Prepared, hashes: tuple[bytes, ...]) -> tuple[int, ...]:
        self.lease = self.mover.lease(prepared, hashes)
        return self.lease.missing

    async def _install(self, positions: tuple[int, ...], sealed: int) -> words.Event:
        await ahit("arrival.install")
        blocks = self.parcel.blocks
        await self._grow(blocks.output)
        await self._write(positions, blocks.payload, blocks.offset, blocks.checksum)
        self.sealing = self.home.stepper.ask(lambda: self._on_lease(lambda lease: self.mover.seal(lease, sealed)))
        return words.Installed()

    async def _grow(self, tokens: Iterable[int]) -> None:
        news = tuple(tokens)
        self.output.extend(news)
        if news:
            await on_step_thread(self.home, lambda: self._on_lease(lambda lease: self.mover.grow(lease, news)))

    def _on_lease(self, act: Callable[[Lease], None]) -> None:
        """On the step thread."""
        if self.lease is None:
            raise BadMessage("the lease is over")
        act(self.lease)

    async def _write(self, positions: tuple[int, ...], payload: bytes, offset: int, checksum: int) -> None:
        size_bytes, lease = len(positions) * self.mover.block_bytes, self.lease
        if lease is None:
            raise BadMessage("the lease is over")

        def write(data: memoryview) -> None:
            if len(data) != size_bytes or zlib.crc32(data) != checksum:
                raise BadMessage(f"{len(data)} bytes for {len(positions)} blocks, damaged or not all of them")
            self.mover.write(lease, positions, data)

        def write_shared(segment: Segment) -> None:
            with segment.view[offset : offset + size_bytes] as data:
                write(data)

        if payload or self.segment is None:
            await self.copier.run(lambda: write(memoryview(payload)))
        else:
            segment = self.segment
            await self.copier.run(lambda: write_shared(segment))

    async def _hold(self, tail: int) -> words.Event:
        await ahit("arrival.hold")
        prepare = self.parcel.prepare
        computed, block_size = prepare.computed_tokens, self.home.engine.info.block_size
        positions = tuple(range(tail, -(-computed // block_size)))
        if positions:
            await self._write(positions, prepare.payload, prepare.offset, prepare.checksum)
        news = tuple(prepare.output)
        self.output.extend(news)
        state = RequestState(tuple(self.output), computed, prepare.state)

        def hold_now(lease: Lease) -> None:
            """Both at once: each step boundary that is waited for is part of the client's pause."""
            if news:
                self.mover.grow(lease, news)
            self.mover.hold(lease, state)

        await on_step_thread(self.home, lambda: self._on_lease(hold_now))
        if self.sealing is not None:
            self.sealing.result()  # asked before, so it is over
        return words.Held()

    # -- ends

    def stream_ended(self) -> None:
        self._perform_end(words.StreamEnded())

    def expire(self) -> None:
        self._perform_end(words.Expired())

    def _perform_end(self, event: words.Event) -> None:
        if words.Drop() in self.machine.feed(event, self.home.clock()):
            self._end()

    def _end(self) -> None:
        self.span.end()
        if self.ending is None:
            self.ending = asyncio.get_running_loop().create_task(self._give_back())

    async def _give_back(self) -> None:
        """The copy thread may be writing into the blocks that are given back."""
        await self.copier.idle()
        self.home.stepper.ask(self._drop_now)
        await self.close_segment()

    async def close_segment(self) -> None:
        segment, self.segment = self.segment, None
        if segment is not None:
            await self.copier.run(segment.close)

    def _drop_now(self) -> None:
        lease, self.lease = self.lease, None
        if lease is not None:
            self.mover.drop(lease)

    def adopt(self, watcher: int, frontend: str, takeover: pb.Takeover) -> bool:
        """Run it for that frontend under the word's epoch. False: there is nothing to run."""
        if words.Adopt() not in self.machine.feed(words.TakenOver(), self.home.clock()):
            return False
        hit("arrival.adopt")
        self.span.end()
        held = self._held(watcher, frontend, takeover)
        if self.home.run_here(held, lambda: self._adopt_now(held.engine_id)):
            return True
        self._end()
        return False

    def _held(self, watcher: int, frontend: str, takeover: pb.Takeover) -> Held:
        submit = pb.Submit()
        submit.CopyFrom(self.open.submit)
        submit.epoch, submit.traceparent = takeover.epoch, takeover.traceparent
        submit.delivered[:] = self.output
        held, _submission = held_of(submit, watcher=watcher, frontend=frontend)
        held.moves, held.since_s = self.open.moves + 1, self.home.clock()
        return held

    def _adopt_now(self, engine_id: str) -> None:
        if self.lease is None:
            raise NoRoom("the lease is over")
        try:
            self.mover.adopt(self.lease, engine_id)
        except Exception:
            self._drop_now()
            raise
        self.lease = None


__all__ = ["Arrival", "Room"]
