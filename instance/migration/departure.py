"""One request on its way out: performs what the source machine decides, and tells it what came of that.

Owns the move's grip on its engine, its line to the target, its shared segment. Everything that it asks of the step
thread or the copy thread is done in the order asked, so that giving back comes after taking whatever was cancelled in
between.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import zlib
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from shoal.instance.holdings import Held
from shoal.instance.migration import source_words as words
from shoal.instance.migration.budget import Budget
from shoal.instance.migration.grip import Grip
from shoal.instance.migration.home import Copier, Home, on_step_thread
from shoal.instance.migration.line import Dial, Line, LineLost
from shoal.instance.migration.segment import NoSegment, Segment
from shoal.instance.migration.source import PAUSED, Source, Stage
from shoal.instance.migration.source_frames import handover_frame, moved_frame, open_frame, refusal
from shoal.instance.migration.words import DISAGGREGATE, MOVED, Ending, Patience, Sizes
from shoal.instance.mover import Gone, Mover, Pin
from shoal.instance.stepper import EngineDied
from shoal.proto.failpoints import ahit, hit
from shoal.proto.tracing import begin
from shoal.proto.v1 import instance_pb2 as pb

log = logging.getLogger(__name__)
Act = Callable[..., Coroutine[Any, Any, words.Event | None]]


@dataclass(frozen=True, slots=True)
class Means:
    """What all moves of an instance share. `same_node`: offer a shared segment."""

    home: Home
    dial: Dial
    copier: Copier
    budget: Budget
    patience: Patience
    sizes: Sizes
    same_node: bool = True


class Departure:
    def __init__(self, means: Means, move: pb.Move, held: Held, address: str) -> None:
        self.means, self.home, self.move, self.held, self.address = means, means.home, move, held, address
        self.mover: Mover = means.home.engine.mover
        self.engine_id, self.epoch = held.engine_id, held.epoch
        blocks = means.budget.parcel_blocks(self.mover.block_bytes)
        self.parcel_bytes = blocks * self.mover.block_bytes
        self.follows = move.reason == DISAGGREGATE
        self.machine = Source(blocks, patience=means.patience, sizes=means.sizes, follow=self.follows)
        self.events: asyncio.Queue[words.Event] = asyncio.Queue()
        self.acts: set[asyncio.Task[None]] = set()
        self.line: Line | None = None
        self.segment: Segment | None = None
        self.grip = Grip(self.mover, held.engine_id)
        self.named = self.told_tokens = self.sent_bytes = 0
        self.span = begin(
            "migration", held.span.traceparent, source=self.home.instance_id, target=move.target, reason=move.reason
        )

    # -- the machine's driver

    async def run(self) -> pb.Moved:
        """To its one end."""
        machine, clock = self.machine, self.home.clock
        began_s = clock()
        try:
            self._perform(machine.start(began_s))
            while machine.stage is not Stage.ENDED:
                event = await self._next_event()
                self._perform(machine.feed(event, clock()))
        finally:
            ended_s, acts = clock(), list(self.acts)
            for act in acts:  # at once: after an Unpark none may ask for a Park
                act.cancel()
            await asyncio.shield(self._clear(acts))
        self._end_span(ended_s)
        return moved_frame(
            self.move, machine, ended_s=ended_s, sent_bytes=self.sent_bytes, tokens=len(self.held.output)
        )

    async def _next_event(self) -> words.Event:
        left_s = self.machine.deadline_s - self.home.clock()
        try:
            async with asyncio.timeout(max(left_s, 0.0)):
                return await self.events.get()
        except TimeoutError:
            return words.Expired()

    def tell(self, event: words.Event) -> None:
        self.events.put_nowait(event)

    def settle(self, committed: bool) -> None:
        """The owner's word; it may come when it is not waited for any more."""
        if self.machine.stage in (Stage.DECIDING, Stage.ENDED):
            self.tell(words.Settled(committed))

    def was_committed_late(self) -> bool:
        """The owner's yes came when this side had given up already."""
        late = [self.events.get_nowait() for _ in range(self.events.qsize())]
        return words.Settled(True) in late and self.machine.ending not in MOVED

    def _perform(self, commands: list[words.Command]) -> None:
        for command in commands:
            match command:
                case words.Look(first):
                    self._act(self._look, first)
                case words.Follow(first, wait_s, park_blocks):
                    self._act(self._follow, first, wait_s, park_blocks)
                case words.Open():
                    self._act(self._open)
                case words.Send(positions):
                    self._act(self._send, positions)
                case words.Park(first):
                    self._act(self._park, first)
                case words.Prepare(first):
                    self._act(self._prepare, first)
                case words.HandOver(prepared):
                    self._act(self._hand_over, prepared)
                case words.Unpark():
                    self._ask(self.grip.unpark)
                case words.Release():
                    hit("departure.release")
                    self.home.holdings.drop(self.engine_id)
                    self._ask(self.grip.release)

    def _act(self, act: Act, *arguments: Any) -> None:
        task = asyncio.get_running_loop().create_task(self._told(act, *arguments))
        self.acts.add(task)
        task.add_done_callback(self.acts.discard)

    async def _told(self, act: Act, *arguments: Any) -> None:
        """Whatever becomes of it is an event."""
        try:
            event = await act(*arguments)
        except LineLost as exc:
            event = words.LineLost(str(exc))
        except Gone:
            event = words.Broken(Ending.SOURCE_GONE, "gone")
        except EngineDied:
            event = words.Broken(Ending.STOPPED, "the engine died")
        except Exception as exc:  # one move's fault must end that move, not the instance
            event = words.Broken(Ending.ERROR, f"{type(exc).__name__}: {exc}"[:200])
        if event is not None:
            self.tell(event)

    def _ask(self, act: Callable[[], None]) -> None:
        """Of the step thread. Nobody waits for it; if it failed, something is left behind, and that is said."""
        self.home.stepper.ask(act).add_done_callback(self._complain)

    def _complain(self, asked: Future[None]) -> None:
        if not asked.cancelled() and (error := asked.exception()) is not None and not isinstance(error, EngineDied):
            log.error("%s: what its move held cannot be given back: %r", self.engine_id, error)

    # -- acts

    async def _look(self, first: int) -> words.Event:
        await ahit("departure.look")
        return words.Seen(*await on_step_thread(self.home, lambda: self.grip.look(first)))

    async def _follow(self, first: int, wait_s: float, park_blocks: int) -> words.Event:
        await asyncio.sleep(wait_s)
        await ahit("departure.look")
        seen = await on_step_thread(self.home, lambda: self.grip.follow(first, park_blocks))
        return words.Parked(*seen) if self.grip.parked else words.Seen(*seen)

    async def _open(self) -> words.Event:
        await ahit("departure.open")
        held, pin = self.held, self.grip.pins[-1]
        self.named = pin.blocks
        self.machine.named(pin.blocks)
        if self.means.same_node:
            with contextlib.suppress(NoSegment):
                self.segment = await self.means.copier.run(lambda: Segment.make(self.parcel_bytes))
        self.line = self.means.dial(self.address)
        self.told_tokens = len(held.output)
        receipt = await self.line.exchange(
            open_frame(
                self.move,
                held,
                source=self.home.instance_id,
                fingerprint=self.mover.fingerprint,
                hashes=pin.hashes,
                shared_memory=self.segment.name if self.segment else "",
                traceparent=self.span.traceparent,
            )
        )
        if self.segment is not None:
            self.segment.unlink()  # the target has it open, or never will
        if receipt.WhichOneof("receipt") != "opened":
            return refusal(receipt)
        if not receipt.opened.shared_memory:
            await self._drop_segment()
        missing = tuple(receipt.opened.missing)
        if any(position >= self.named for position in missing):
            raise LineLost(f"block {max(missing)} was asked for, {self.named} were named")
        return words.Opened(missing)

    async def _send(self, positions: tuple[int, ...]) -> words.Event:
        await ahit("departure.copy")
        pin, clock, began_s = self.grip.pins[-1], self.home.clock, self.home.clock()
        payload, checksum = await self._read(pin, positions)
        copy_s = clock() - began_s
        new = [pin.hashes[position - pin.first] for position in positions if position >= self.named]
        news = self._news(least=2)
        blocks = pb.Blocks(positions=positions, hashes=new, output=news, payload=payload, checksum=checksum)
        receipt = await self._exchange(pb.Parcel(blocks=blocks))
        if receipt.WhichOneof("receipt") != "installed":
            return refusal(receipt)
        size_bytes = len(positions) * self.mover.block_bytes
        self.sent_bytes += size_bytes
        rest_s = self.means.budget.rest_s(size_bytes, copy_s, clock())
        if self.machine.stage not in PAUSED:
            await asyncio.sleep(min(rest_s, self.means.patience.parcel_s / 2))
        return words.Installed()

    async def _read(self, pin: Pin, positions: tuple[int, ...]) -> tuple[bytes, int]:
        """Into the segment, where there is one; then the payload is empty."""
        size_bytes = len(positions) * self.mover.block_bytes

        def read() -> tuple[bytes, int]:
            if self.segment is None:
                data = bytearray(size_bytes)
                self.mover.read(pin, positions, memoryview(data))
                return bytes(data), zlib.crc32(data)
            with self.segment.view[:size_bytes] as into:
                self.mover.read(pin, positions, into)
                return b"", zlib.crc32(into)

        return await self.means.copier.run(read) if positions else (b"", 0)

    def _news(self, least: int = 0) -> list[int]:
        """Output tokens that the target has not been told of; fewer than `least` are not worth a step boundary there:
        sealed blocks are without the last one."""
        news = self.held.output[self.told_tokens :]
        if len(news) < least:
            return []
        self.told_tokens += len(news)
        return news

    async def _park(self, first: int) -> words.Event:
        await ahit("departure.park")
        parked = await on_step_thread(self.home, lambda: self.grip.park(first))
        return words.InFlight() if parked is None else words.Parked(*parked)

    async def _prepare(self, first: int) -> words.Event:
        await ahit("departure.prepare")
        assert self.grip.rest is not None, "only what is parked is prepared"
        state, tail = self.grip.rest
        if list(state.output) != self.held.output:
            raise ValueError(f"the engine made {len(state.output)} tokens, {len(self.held.output)} were sent")
        payload, checksum = await self._read(tail, tuple(range(first, first + tail.blocks)))
        prepare = pb.Prepare(
            output=self._news(),
            computed_tokens=state.computed_tokens,
            state=state.engine,
            payload=payload,
            checksum=checksum,
        )
        receipt = await self._exchange(pb.Parcel(prepare=prepare))
        self.sent_bytes += tail.blocks * self.mover.block_bytes
        return words.Prepared() if receipt.WhichOneof("receipt") == "prepared" else refusal(receipt)

    async def _exchange(self, parcel: pb.Parcel) -> pb.Receipt:
        if self.line is None:
            raise LineLost("it was closed")
        return await self.line.exchange(parcel)

    async def _hand_over(self, prepared: bool) -> None:
        await ahit("departure.hand_over")
        held = self.held
        if held.watcher is None or held.epoch != self.epoch:
            self.tell(words.Broken(Ending.OWNER_SILENT, "its stream ended"))
            return
        frame = handover_frame(
            self.move, held, prepared=prepared, sent_bytes=self.sent_bytes, stages=self.machine.stages
        )
        self.home.tell(held.watcher, frame)

    # -- the end

    async def _drop_segment(self) -> None:
        segment, self.segment = self.segment, None
        if segment is not None:
            segment.unlink()
            await self.means.copier.run(segment.close)

    async def _clear(self, acts: list[asyncio.Task[None]]) -> None:
        await asyncio.gather(*acts, return_exceptions=True)
        if self.line is not None:
            await self.line.close()
        await self.means.copier.idle()  # it may be reading what is given back now
        await self._drop_segment()
        self._ask(self.grip.unpin)

    def _end_span(self, ended_s: float) -> None:
        machine, parked_s = self.machine, self.machine.parked_s
        if parked_s:
            begin("pause", self.span.traceparent, began_s_ago=ended_s - parked_s).end()
        assert machine.ending is not None
        self.span.note(outcome=machine.ending.value, bytes=self.sent_bytes, stages=machine.stages)
        self.span.end()


__all__ = ["Departure", "Means"]
