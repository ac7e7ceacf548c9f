"""The live picture of the cluster in one frontend: who is a member, how loaded, what it holds in its cache, what was
just sent there.

Owns that picture; everybody else gets frozen copies. It is told of facts (joined, reported, booked, finished) and
promises that what it shows counts each request of this frontend exactly once: as a booking until the instance's own
reports include it, as part of the report from then on (rule: see `bookings`). Facts about instances or requests it
does not know are late ones and are ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import IntEnum

import numpy as np

from shoal.proto.errors import BadMessage, NotFound
from shoal.router.bookings import Bookings
from shoal.router.contract import InstanceInfo, InstanceLoad, Placement, RouteRequest
from shoal.router.prefix_index import PrefixIndex
from shoal.router.snapshot import Candidate, Ints, Members, Question, Snapshot, Standing


class _Column(IntEnum):
    REQUESTS = 0
    PREFILL_TOKENS = 1
    CONTEXT_TOKENS = 2
    FREE_BLOCKS = 3
    STEP_MS = 4
    OBSERVED_S = 5
    PLACEABLE = 6
    BOOKED_REQUESTS = 7
    BOOKED_TOKENS = 8
    TURN = 9


_REPORTED = slice(_Column.REQUESTS, _Column.OBSERVED_S + 1)
_BOOKED = slice(_Column.BOOKED_REQUESTS, _Column.BOOKED_TOKENS + 1)


class ClusterView:
    """Sole owner of the picture. Not safe for threads: one frontend's event loop feeds and asks it."""

    def __init__(self, *, max_blocks_per_instance: int = 1 << 17, settle_s: float = float("inf")) -> None:
        self._index = PrefixIndex(max_blocks_per_instance)
        self._bookings = Bookings(settle_s)
        self._rows: dict[str, int] = {}
        self._loads: dict[str, InstanceLoad] = {}
        self._standings: dict[str, Standing] = {}
        self._table = np.zeros((len(_Column), 0))
        self._turns = 0
        self._members = Members.of(())
        self._slots: Ints = np.zeros(0, dtype=np.int64)
        self._snapshot: Snapshot | None = None

    # Membership

    def join(self, info: InstanceInfo) -> None:
        """A ready member with nothing reported. Joining again is a new life of that name: all about the former one is
        forgotten."""
        self.leave(info.id)
        self._index.join(info.id)
        self._loads[info.id] = InstanceLoad(free_blocks=info.total_blocks)
        self._standings[info.id] = Standing.READY
        column = np.zeros((len(_Column), 1))
        column[[_Column.FREE_BLOCKS, _Column.OBSERVED_S, _Column.PLACEABLE], 0] = info.total_blocks, np.inf, 1
        self._table = np.hstack([self._table, column])
        self._renumber((*self._members.infos, info))

    def leave(self, instance: str) -> None:
        row = self._rows.get(instance)
        if row is None:
            return
        self._index.leave(instance)
        self._bookings.leave(instance)
        del self._loads[instance], self._standings[instance]
        self._table = np.delete(self._table, row, axis=1)
        self._renumber(tuple(i for i in self._members.infos if i.id != instance))

    def set_state(self, instance: str, standing: Standing) -> None:
        if instance in self._rows:
            self._standings[instance] = standing
            self._set_placeable(instance)

    # What instances say

    def observe(self, instance: str, load: InstanceLoad, now_s: float) -> None:
        row = self._rows.get(instance)
        if row is None:
            return
        self._loads[instance] = load
        self._table[_REPORTED, row] = (
            load.running + load.waiting,
            load.queued_prefill_tokens + load.uncached_prefill_tokens,
            load.context_tokens,
            load.free_blocks,
            load.step_ms,
            now_s,
        )
        self._set_placeable(instance)
        self._bookings.reported(instance, load.step_ms / 1000, now_s)
        self._rebook(instance)

    def block_changes(self, instance: str, kind: str, hashes: Sequence[bytes] = ()) -> None:
        """kind: 'stored' | 'removed' | 'cleared', in the order in which the instance made them."""
        match kind:
            case "stored":
                self._index.stored(instance, hashes)
            case "removed":
                self._index.removed(instance, hashes)
            case "cleared":
                self._index.clear(instance)
            case _:
                raise BadMessage(f"block change of {instance}: unknown kind {kind!r:.40}")

    # What this frontend does

    def book(self, request: RouteRequest, placement: Placement, now_s: float) -> None:
        """Call at selection, before anything is awaited. A request that is placed anew (resubmitted) moves its
        booking."""
        instance = placement.instance
        row = self._rows.get(instance)
        if row is None:
            raise NotFound(f"instance {instance}: not a member")
        self.finish(request.request_id)
        tokens = max(request.context_tokens - placement.cached_tokens, 0)
        self._bookings.book(request.request_id, instance, tokens, now_s)
        cached_blocks = placement.cached_tokens // self._members.infos[row].block_size
        self._index.touch(instance, request.block_hashes[:cached_blocks])
        self._turns += 1
        self._table[_Column.TURN, row] = self._turns
        self._rebook(instance)

    def acknowledged(self, request_id: str) -> None:
        """The instance has taken it up; the next report observed includes it."""
        self._bookings.acknowledged(request_id)

    def first_token(self, request_id: str) -> None:
        self._rebook(self._bookings.started(request_id))

    def finish(self, request_id: str) -> None:
        """Over in whatever way, here or at its instance: ended, aborted, refused, taken away."""
        self._rebook(self._bookings.drop(request_id))

    # What policies ask

    def question(self, request: RouteRequest, now_s: float) -> Question:
        snapshot = self.snapshot()
        return Question(request, snapshot, self._cached_tokens(request), now_s)

    def snapshot(self) -> Snapshot:
        if self._snapshot is None:
            table = self._table.copy()
            table[_Column.REQUESTS] += table[_Column.BOOKED_REQUESTS]
            table[_Column.PREFILL_TOKENS] += table[_Column.BOOKED_TOKENS]
            table.flags.writeable = False
            placeable = table[_Column.PLACEABLE].astype(np.bool_)
            placeable.flags.writeable = False
            self._snapshot = Snapshot(
                members=self._members,
                placeable=placeable,
                requests=table[_Column.REQUESTS],
                prefill_tokens=table[_Column.PREFILL_TOKENS],
                context_tokens=table[_Column.CONTEXT_TOKENS],
                free_blocks=table[_Column.FREE_BLOCKS],
                step_ms=table[_Column.STEP_MS],
                observed_s=table[_Column.OBSERVED_S],
                turn=table[_Column.TURN],
            )
        return self._snapshot

    @property
    def placeable(self) -> int:
        """How many members take new work now."""
        return int(self.snapshot().placeable.sum())

    def candidates(self, now_s: float) -> list[Candidate]:
        """All members, placeable or not, in the order in which they joined."""
        return [self._candidate(info, now_s) for info in self._members.infos]

    def check(self) -> None:
        """The table says what the ledgers say, and nothing is negative."""
        self._index.check()
        self._bookings.check()
        assert list(self._rows) == [i.id for i in self._members.infos] == list(self._loads) == list(self._standings)
        assert self._table.shape == (len(_Column), len(self._rows))
        assert (self._table[_Column.REQUESTS : _Column.OBSERVED_S] >= 0).all()
        booked = 0
        for instance, row in self._rows.items():
            requests, tokens = self._bookings.sums(instance)
            assert (requests, tokens) == tuple(self._table[_BOOKED, row]), instance
            assert self._index.slot(instance) == self._slots[row]
            booked += requests
        assert booked == len(self._bookings), "a booking on an instance that is no member"

    def _cached_tokens(self, request: RouteRequest) -> Ints:
        """Whole blocks, and never the last token: an engine must compute at least that one."""
        size = self._members.block_size
        held = self._index.depths(request.block_hashes)[self._slots]
        blocks: Ints = np.clip(held, 0, max(request.context_tokens - 1, 0) // size)
        return blocks * size

    def _candidate(self, info: InstanceInfo, now_s: float) -> Candidate:
        load = self._loads[info.id]
        requests, tokens = self._bookings.sums(info.id)
        load = replace(load, waiting=load.waiting + requests, queued_prefill_tokens=load.queued_prefill_tokens + tokens)
        observed_s = float(self._table[_Column.OBSERVED_S, self._rows[info.id]])
        return Candidate(info, load, self._standings[info.id], age_s=max(now_s - observed_s, 0.0))

    def _renumber(self, infos: tuple[InstanceInfo, ...]) -> None:
        self._members = Members.of(infos)
        self._rows = {info.id: row for row, info in enumerate(infos)}
        self._slots = np.array([self._index.slot(i.id) for i in infos], dtype=np.int64)
        self._snapshot = None

    def _set_placeable(self, instance: str) -> None:
        ready = self._standings[instance] is Standing.READY and not self._loads[instance].draining
        self._table[_Column.PLACEABLE, self._rows[instance]] = ready
        self._snapshot = None

    def _rebook(self, instance: str | None) -> None:
        if instance is not None:
            self._table[_BOOKED, self._rows[instance]] = self._bookings.sums(instance)
            self._snapshot = None


__all__ = ["ClusterView", "Standing"]
