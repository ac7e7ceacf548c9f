"""The live picture of the cluster in one frontend: who is a member, how loaded, what it holds in its cache, what was
just sent there.

Owns that picture; everybody else looks through a read-only window. It is told of facts (joined, reported, booked,
finished) and promises that what it shows counts each request of this frontend exactly once: as a booking until the
instance's own reports include it, as part of the report from then on (rule: see `bookings`). Facts about instances or
requests it does not know are late ones and are ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from shoal.proto.errors import NotFound
from shoal.router.block_feed import BlockFeed, Change, Holding
from shoal.router.bookings import Bookings
from shoal.router.contract import InstanceInfo, InstanceLoad, Placement, Role, RouteRequest
from shoal.router.foresight import Foresight
from shoal.router.prefix_index import PrefixIndex, Tier
from shoal.router.programs import Programs
from shoal.router.snapshot import Candidate, Floats, Ints, Members, Question, Snapshot, Standing


class ClusterView:
    """Sole owner of the picture. Not safe for threads: one frontend's event loop feeds and asks it."""

    def __init__(self, *, max_blocks_per_instance: int = 1 << 17, settle_s: float = float("inf")) -> None:
        self._index = PrefixIndex(max_blocks_per_instance)
        self._feed = BlockFeed(self._index)
        self._bookings = Bookings(settle_s)
        self._rows: dict[str, int] = {}
        self._loads: dict[str, InstanceLoad] = {}
        self._standings: dict[str, Standing] = {}
        self._turns = 0
        self.programs = Programs()
        self.foresight = Foresight()  # whoever learns puts a new one here
        self.split_from_tokens = 512
        self._renumber([], np.zeros((Snapshot.COLUMNS, 0)))

    # Membership

    def join(self, info: InstanceInfo) -> None:
        """A ready member with nothing reported. Joining again is a new life of that name: all about the former one is
        forgotten."""
        self.leave(info.id)
        self._feed.join(info.id)
        self._loads[info.id] = InstanceLoad(free_blocks=info.total_blocks)
        self._standings[info.id] = Standing.READY
        self._renumber([*self._live.members.infos, info], np.pad(self._live.table, ((0, 0), (0, 1))))
        row = self._rows[info.id]
        self._live.free_blocks[row], self._live.observed_s[row] = info.total_blocks, np.inf

    def leave(self, instance: str) -> None:
        row = self._rows.get(instance)
        if row is None:
            return
        self._feed.leave(instance)
        self._bookings.leave(instance)
        self.programs.leave(instance)
        del self._loads[instance], self._standings[instance]
        others = [info for info in self._live.members.infos if info.id != instance]
        self._renumber(others, np.delete(self._live.table, row, axis=1))

    def set_state(self, instance: str, standing: Standing) -> None:
        if instance in self._rows:
            self._standings[instance] = standing
            self._set_placeable(instance, self._rows[instance])

    def set_role(self, instance: str, role: Role) -> None:
        """Its requests, blocks and bookings stay."""
        infos = list(self._live.members.infos)
        row = self._rows.get(instance)
        if row is not None and infos[row].role is not role:
            infos[row] = replace(infos[row], role=role)
            self._renumber(infos, self._live.table)

    # What instances say

    def observe(self, instance: str, load: InstanceLoad, now_s: float) -> None:
        row = self._rows.get(instance)
        if row is None:
            return
        live, former = self._live, self._loads[instance]
        self._loads[instance] = load
        live.context_tokens[row] = load.context_tokens
        live.free_blocks[row] = load.free_blocks
        live.step_ms[row] = load.step_ms
        live.observed_s[row] = now_s
        if load.draining != former.draining:
            self._set_placeable(instance, row)
        self._bookings.reported(instance, load.step_ms / 1000, now_s)
        self._count(instance, row)

    def block_batch(self, instance: str, changes: Sequence[Change], sequence: int, tier: Tier = Tier.DEVICE) -> bool:
        """See `BlockFeed.batch`. True: ask the instance to tell all of its blocks anew."""
        lost = self._feed.batch(instance, changes, sequence, tier)
        self._count_blocks(instance)
        return lost

    def block_changes(self, instance: str, kind: str, hashes: Sequence[bytes] = (), tier: Tier = Tier.DEVICE) -> None:
        """One change, for sources that cannot lose any. kind: 'stored' | 'removed' | 'cleared'."""
        self._feed.change(instance, kind, hashes, tier)
        self._count_blocks(instance)

    def holdings(self) -> list[Holding]:
        """What is known of all caches, for `restore` in another life."""
        return self._feed.holdings()

    def restore(self, holdings: Iterable[Holding]) -> None:
        self._feed.restore(holdings)
        for instance in self._rows:
            self._count_blocks(instance)

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
        cached_blocks = placement.cached_tokens // self._live.members.infos[row].block_size
        self._index.touch(instance, request.block_hashes[:cached_blocks])
        self.programs.placed(request, placement, now_s)
        self._turns += 1
        self._live.turn[row] = self._turns
        self._count(instance, row)

    def acknowledged(self, request_id: str) -> None:
        """The instance has taken it up; the next report observed includes it."""
        self._bookings.acknowledged(request_id)

    def first_token(self, request_id: str) -> None:
        self._recount(self._bookings.started(request_id))

    def finish(self, request_id: str) -> None:
        """Over in whatever way, here or at its instance: ended, aborted, refused, taken away."""
        self._recount(self._bookings.drop(request_id))

    # What policies ask

    def question(self, request: RouteRequest, now_s: float) -> Question:
        """To be answered before the view hears of anything else."""
        cached = self._reach_tokens(request, Tier.DEVICE)
        pool = self._reach_tokens(request, Tier.POOL) if self._index.holds(Tier.POOL) else cached
        disk = self._reach_tokens(request, Tier.DISK) if self._index.holds(Tier.DISK) else pool
        reach = (cached, pool, disk)
        return Question(request, self._shown, *reach, now_s, self.foresight, self.programs, self.split_from_tokens)

    def snapshot(self) -> Snapshot:
        """A window on the numbers as they are at any time."""
        return self._shown

    @property
    def placeable(self) -> int:
        """How many members take new work now."""
        return int(np.count_nonzero(self._live.placeable))

    def candidates(self, now_s: float) -> list[Candidate]:
        """All members, placeable or not, in the order in which they joined."""
        return [self._candidate(info, now_s) for info in self._live.members.infos]

    def check(self) -> None:
        """The table says what the ledgers say, and nothing is negative."""
        self._index.check()
        self._bookings.check()
        self.programs.check()
        live = self._live
        assert list(self._rows) == [i.id for i in live.members.infos] == list(self._loads) == list(self._standings)
        assert live.table.shape == (Snapshot.COLUMNS, len(self._rows))
        assert (live.table >= 0).all()
        booked = 0
        for instance, row in self._rows.items():
            requests, tokens = self._bookings.sums(instance)
            load = self._loads[instance]
            assert live.requests[row] == load.running + load.waiting + requests, instance
            assert live.waiting[row] == load.waiting + requests, instance
            assert live.prefill_tokens[row] == load.queued_prefill_tokens + load.uncached_prefill_tokens + tokens
            assert live.placeable[row] == (self._standings[instance] is Standing.READY and not load.draining)
            assert live.cached_blocks[row] == len(self._index.held(instance))
            assert self._index.slot(instance) == self._slots[row]
            booked += requests
        assert booked == len(self._bookings), "a booking on an instance that is no member"

    def _reach_tokens(self, request: RouteRequest, reach: Tier) -> Floats:
        """Whole blocks, and never the last token: an engine must compute at least that one."""
        size, computable = self._live.members.block_size, request.context_tokens - 1
        cached: Floats = self._index.depths(request.block_hashes, reach)[self._slots] * size
        if len(request.block_hashes) * self._live.members.most_block_size > computable:
            cached = np.minimum(cached, max(computable, 0) // size * size)
        return cached

    def _candidate(self, info: InstanceInfo, now_s: float) -> Candidate:
        load = self._loads[info.id]
        requests, tokens = self._bookings.sums(info.id)
        load = replace(load, waiting=load.waiting + requests, queued_prefill_tokens=load.queued_prefill_tokens + tokens)
        observed_s = float(self._live.observed_s[self._rows[info.id]])
        return Candidate(info, load, self._standings[info.id], age_s=max(now_s - observed_s, 0.0))

    def _renumber(self, infos: Sequence[InstanceInfo], table: Floats) -> None:
        self._rows = {info.id: row for row, info in enumerate(infos)}
        self._slots: Ints = np.array([self._index.slot(i.id) for i in infos], dtype=np.int64)
        self._live = Snapshot.over(Members.of(infos), np.zeros(len(infos), dtype=np.bool_), table)
        self._shown = self._live.sealed()
        for instance, row in self._rows.items():
            self._set_placeable(instance, row)

    def _set_placeable(self, instance: str, row: int) -> None:
        ready = self._standings[instance] is Standing.READY and not self._loads[instance].draining
        self._live.placeable[row] = ready

    def _count_blocks(self, instance: str) -> None:
        if instance in self._rows:
            self._live.cached_blocks[self._rows[instance]] = self._index.count(instance)

    def _recount(self, instance: str | None) -> None:
        if instance is not None:
            self._count(instance, self._rows[instance])

    def _count(self, instance: str, row: int) -> None:
        """What was reported and what is booked since."""
        live, load = self._live, self._loads[instance]
        requests, tokens = self._bookings.sums(instance)
        live.requests[row] = load.running + load.waiting + requests
        live.waiting[row] = load.waiting + requests
        live.prefill_tokens[row] = load.queued_prefill_tokens + load.uncached_prefill_tokens + tokens


__all__ = ["ClusterView", "Standing"]
