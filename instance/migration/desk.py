"""Everything of one instance that concerns moves: who may be moved to, what is on its way out and in, and the counts.

The server hands it the frames of `Attach` that are about moves, the `Transfer` streams, and word of requests and
streams that ended. Nothing here decides about one move: that is `source.py` and `target.py`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from shoal.instance.migration.arrival import Arrival, Room
from shoal.instance.migration.budget import Budget, BudgetLimits
from shoal.instance.migration.departure import Departure, Means
from shoal.instance.migration.home import Copier, Home
from shoal.instance.migration.line import Dial
from shoal.instance.migration.residents import residents_frame
from shoal.instance.migration.source_words import Broken
from shoal.instance.migration.target import Stage
from shoal.instance.migration.words import DISAGGREGATE, MOVED, Ending, Patience, Sizes
from shoal.proto.errors import BadMessage
from shoal.proto.seal import Sealer, SealReader
from shoal.proto.v1 import instance_pb2 as pb

RESIDENTS_S = 0.1


class Counts:
    """Since start. `ended` by (reason, outcome)."""

    def __init__(self) -> None:
        self.ended: Counter[tuple[str, str]] = Counter()
        self.aborted: Counter[str] = Counter()
        self.sent_bytes = self.stages = 0

    def add(self, moved: pb.Moved) -> None:
        self.ended[moved.reason, moved.outcome] += 1
        self.sent_bytes += moved.sent_bytes
        self.stages += moved.stages
        if Ending(moved.outcome) not in MOVED:
            self.aborted[moved.outcome] += 1


class MoveDesk:
    """Owns departures by engine id, arrivals by (move id, request id). Lives on the server's event loop."""

    def __init__(
        self,
        home: Home,
        *,
        dial: Dial,
        limits: BudgetLimits = BudgetLimits(),
        patience: Patience = Patience(),
        sizes: Sizes = Sizes(),
        copier: Copier | None = None,
    ) -> None:
        self.home, self.limits, self.counts = home, limits, Counts()
        copier = copier or Copier()
        self.means = Means(home, dial, copier, Budget(limits), patience, sizes)
        self.room = Room(home, copier, patience)
        self.peers: dict[str, str] = {}
        self.departures: dict[str, Departure] = {}
        self.arrivals: set[Arrival] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.residents_s = 0.0
        self.asking = False

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    # -- out

    def move(self, watcher: int, move: pb.Move) -> None:
        """Ended by a Moved to that watcher."""
        held = self.home.holdings.find(move.request_id, move.frontend, move.epoch)
        address = self.peers.get(move.target)
        if held is None:
            self._refuse(watcher, move, Ending.SOURCE_GONE, "it is not here, or has no owner")
        elif self.home.engine.mover is None:
            self._refuse(watcher, move, Ending.REFUSED, "this engine cannot move requests")
        elif address is None:
            self._refuse(watcher, move, Ending.REFUSED, f"{move.target} is no peer")
        elif held.engine_id in self.departures:
            self._refuse(watcher, move, Ending.REFUSED, "it is being moved already")
        elif not self.means.budget.has_room(follows=move.reason == DISAGGREGATE):
            self._refuse(watcher, move, Ending.BUSY, "as many as allowed are under way")
        else:
            departure = self.departures[held.engine_id] = Departure(self.means, move, held, address)
            self.means.budget.begin(follows=departure.follows)
            self._spawn(self._depart(watcher, departure))

    def _refuse(self, watcher: int, move: pb.Move, ending: Ending, detail: str) -> None:
        moved = pb.Moved(
            move_id=move.move_id,
            request_id=move.request_id,
            frontend=move.frontend,
            target=move.target,
            reason=move.reason,
            outcome=ending.value,
            detail=detail,
        )
        self._ended(watcher, moved)

    async def _depart(self, watcher: int, departure: Departure) -> None:
        try:
            self._ended(watcher, await departure.run())
        finally:
            self.means.budget.end(follows=departure.follows)
            del self.departures[departure.engine_id]
        if departure.was_committed_late():
            self._lives_elsewhere(departure.engine_id)

    def _ended(self, watcher: int, moved: pb.Moved) -> None:
        self.counts.add(moved)
        self.home.tell(watcher, pb.Down(moved=moved))

    def settle(self, watcher: int, settle: pb.Settle) -> None:
        """An answer that comes after the deadline finds the request running: committed, it must go all the same."""
        engine_id = self.home.holdings.by_request.get((watcher, settle.request_id), "")
        departure = self.departures.get(engine_id)
        if departure is not None and departure.move.move_id == settle.move_id:
            departure.settle(settle.committed)
        elif engine_id and settle.committed and self.home.holdings.by_engine_id[engine_id].epoch == settle.epoch:
            self._lives_elsewhere(engine_id)

    def _lives_elsewhere(self, engine_id: str) -> None:
        self.gone(engine_id, "moved")
        self.home.holdings.drop(engine_id)
        self.home.stepper.abort([engine_id])

    def gone(self, engine_id: str, how: str) -> None:
        """It finished here, or was aborted."""
        if (departure := self.departures.get(engine_id)) is not None:
            departure.tell(Broken(Ending.SOURCE_GONE, how))

    def owner_lost(self, watcher: int) -> None:
        """Its stream is about to end."""
        for departure in self.departures.values():
            if departure.held.watcher == watcher:
                departure.tell(Broken(Ending.OWNER_SILENT, "its stream ended"))

    # -- in

    async def transfer(self, parcels: AsyncIterator[pb.Parcel]) -> AsyncIterator[pb.Receipt]:
        """One stream. Ends after a refusal, or with the source's end of it."""
        sealer, seals = Sealer(), SealReader()
        arrival = Arrival(self.room) if self._may_arrive() else None
        if arrival is not None:
            self.arrivals.add(arrival)
        try:
            while (parcel := await self._next(parcels)) is not None:
                seals.check(parcel)
                receipt = pb.Receipt(declined=pb.Declined(reason="no place for another arrival", no_room=True))
                if arrival is not None:
                    receipt = await arrival.take(parcel)
                sealer.seal(receipt)
                yield receipt
                if receipt.WhichOneof("receipt") == "declined":
                    return
        except BadMessage:
            return  # a damaged stream ends: the source goes on
        finally:
            if arrival is not None:
                self._stream_ended(arrival)

    def _may_arrive(self) -> bool:
        return self.home.engine.mover is not None and len(self.arrivals) < self.limits.arrivals

    async def _next(self, parcels: AsyncIterator[pb.Parcel]) -> pb.Parcel | None:
        """None: the stream has ended, or nothing came in time."""
        try:
            async with asyncio.timeout(self.room.patience.idle_s):
                return await anext(parcels, None)
        except TimeoutError:
            return None

    def _stream_ended(self, arrival: Arrival) -> None:
        arrival.stream_ended()
        if arrival.machine.stage is not Stage.PREPARED:
            self.arrivals.discard(arrival)

    def takeover(self, watcher: int, frontend: str, takeover: pb.Takeover) -> bool:
        """False: there is nothing to take over, the lease is over."""
        key = (takeover.move_id, takeover.request_id)
        arrival = next((a for a in self.arrivals if a.key == key and a.machine.stage is Stage.PREPARED), None)
        if arrival is None:
            return False
        self.arrivals.discard(arrival)
        self._spawn(arrival.close_segment())
        return arrival.adopt(watcher, frontend, takeover)

    # -- time

    def tick(self, now_s: float) -> None:
        for arrival in [a for a in self.arrivals if a.machine.stage is Stage.PREPARED]:
            arrival.expire()
            if arrival.machine.stage is Stage.ENDED:
                self.arrivals.discard(arrival)

    async def residents(self, now_s: float) -> list[pb.Resident] | None:
        """Who is here; None if it was asked less than RESIDENTS_S ago, or the answer is still awaited."""
        mover = self.home.engine.mover
        if mover is None or self.asking or now_s - self.residents_s < RESIDENTS_S:
            return None
        self.asking, self.residents_s = True, now_s
        try:
            sights = await asyncio.wrap_future(self.home.stepper.ask(mover.residents))
        except Exception:  # the engine is dying: its stream's end says so
            return None
        finally:
            self.asking = False
        return residents_frame(sights, self.home.holdings)

    async def stop(self) -> None:
        """Every move ends; what was parked goes on, or ends with the engine."""
        for departure in self.departures.values():
            departure.tell(Broken(Ending.STOPPED))
        for arrival in self.arrivals:
            arrival.stream_ended()
        pending = {*self.tasks, *(a.ending for a in self.arrivals if a.ending)}
        if pending:
            await asyncio.wait(pending, timeout=1.0)
        self.room.copier.stop()


__all__ = ["Counts", "MoveDesk"]
