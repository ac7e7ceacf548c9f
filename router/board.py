"""The picture on which one plan is made: hosts as they will be once the moves decided so far are done.

Owned by one call of `rebalance.plan`. Says what a move costs, and when a request would start at a host, so that every
rule of rebalancing asks the same two questions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush

from shoal.proto.config import MigrationConfig
from shoal.router.contract import Role
from shoal.router.fleet import QUEUED, Host, Job, Phase
from shoal.router.load import freeness, headroom_blocks
from shoal.router.rank import Rank


@dataclass(frozen=True, slots=True)
class Costs:
    """Measured from moves that ended. `slowdown`: share of its speed that a batch loses while blocks are copied."""

    bandwidth_bytes_per_s: float = 500e6
    pause_s: float = 0.05
    resubmit_s: float = 0.02  # of one that waits: nothing is copied
    bytes_per_token: float = 65_536.0
    slowdown: float = 0.03


@dataclass(frozen=True, slots=True)
class Order:
    """A move to be made. `copy_bytes` is an upper bound, less what the target is known to hold."""

    request_id: str
    epoch: int
    frontend: str
    source: str
    target: str
    reason: str
    copy_bytes: int


Known = Mapping[tuple[str, str], int]  # (request, host) -> tokens whose blocks it left there


@dataclass(slots=True)
class Side:
    """One host, with what has been decided. `host` is replaced as jobs come and go."""

    host: Host
    moves_out: int = 0
    moves_in: int = 0
    out_bytes: int = 0

    def give(self, job: Job) -> None:
        freed = 0 if job.phase in QUEUED else job.blocks
        left = tuple(one for one in self.host.jobs if one.request_id != job.request_id)
        self.host = replace(self.host, jobs=left, free_blocks=self.host.free_blocks + freed)

    def take(self, job: Job) -> None:
        """One that ran counts as held at once, be it there or on its way; one that waits will wait here, in the place
        that its age gives."""
        if job.phase in QUEUED:
            held, blocks = replace(job, phase=Phase.COMING), 0
        else:
            held, blocks = replace(job, phase=Phase.MOVING, age_s=0.0), job.blocks
        self.host = replace(self.host, jobs=(*self.host.jobs, held), free_blocks=self.host.free_blocks - blocks)


@dataclass(slots=True)
class Board:
    rules: MigrationConfig
    costs: Costs
    known: Known
    sides: dict[str, Side]
    orders: list[Order] = field(default_factory=list)

    @staticmethod
    def of(
        hosts: Iterable[Host],
        flying: Sequence[Order],
        rules: MigrationConfig,
        costs: Costs,
        known: Known,
        settling: Sequence[Order] = (),
    ) -> Board:
        """Moves that fly already are booked first, so that no two plans use the same room. `settling` ones have ended,
        but the reports may be older than that."""
        moving = {order.request_id for order in (*flying, *settling)}
        board = Board(rules, costs, known, {host.id: Side(_marked(host, moving)) for host in hosts})
        for order in flying:
            source, target = board.sides.get(order.source), board.sides.get(order.target)
            if source is not None:
                source.moves_out += 1
                source.out_bytes += order.copy_bytes
            if target is not None:
                target.moves_in += 1
        for order in (*flying, *settling):
            board._expect(order)
        return board

    def _expect(self, order: Order) -> None:
        """Its target holds room for it, or a place in its queue, if it did not arrive there yet."""
        source, target = self.sides.get(order.source), self.sides.get(order.target)
        if source is None or target is None:
            return
        arrived = any(job.request_id == order.request_id for job in target.host.jobs)
        for job in source.host.jobs:
            if job.request_id == order.request_id:
                if not arrived:
                    target.take(job)
                if job.phase in QUEUED:  # it holds nothing that would stay behind
                    source.give(job)

    # Questions

    def movable(self, job: Job) -> bool:
        """At rest requests, those on their way and those that cannot move stay."""
        rests = job.age_s < self.rules.rest_s * job.moves
        return not job.unmovable and job.phase in (Phase.RUNNING, Phase.WAITING) and not rests

    def can_move(self, job: Job, source: Host, target: Host) -> bool:
        """Within the budget: moves at once, out and in, and bytes in flight (one move of any size always may)."""
        giver, taker, limit = self.sides[source.id], self.sides[target.id], self.rules.moves_per_instance
        copy_bytes = self.copy_bytes(job, target)
        within = giver.out_bytes + copy_bytes <= self.rules.budget_bytes or not giver.out_bytes
        suits = source.draining or _suits(job, target)
        return giver.moves_out < limit and taker.moves_in < limit and within and suits

    def targets(self, source: Host) -> list[Host]:
        """Hosts that may take something of it, the freest first."""
        hosts = [side.host for side in self.sides.values() if self._takes(side, source)]
        return sorted(hosts, key=lambda host: -freeness(host, self.rules.headroom_tokens))

    @staticmethod
    def _takes(side: Side, source: Host) -> bool:
        host = side.host
        return host.id != source.id and host.placeable and not host.draining and host.kind == source.kind

    def has_room(self, host: Host, job: Job) -> bool:
        """It would run there at once, nobody waits there before it, and a request of the high class keeps its
        headroom."""
        if any(one.queue_order <= job.queue_order for one in host.waiting) or len(host.running) >= host.max_running:
            return False
        kept = 0.0 if job.rank is Rank.HIGH else headroom_blocks(host, self.rules.headroom_tokens)
        promised = sum(one.blocks for one in host.waiting if one.phase is Phase.COMING)
        return host.free_blocks - promised - kept >= job.blocks + 1

    def copy_bytes(self, job: Job, target: Host) -> int:
        if job.phase is Phase.WAITING:
            return 0
        there = self.known.get((job.request_id, target.id), 0)
        return int(max(job.computed_tokens - there, 0) * self.costs.bytes_per_token)

    def copy_s(self, copy_bytes: int) -> float:
        return copy_bytes / self.costs.bandwidth_bytes_per_s

    def cost_s(self, job: Job, source: Host, target: Host) -> float:
        """Seconds lost by requests: its own pause, and a little by everybody in both batches while blocks are
        copied."""
        if job.phase is Phase.WAITING:
            return self.costs.resubmit_s
        others = len(source.running) + len(target.running)
        copying_s = self.copy_s(self.copy_bytes(job, target))
        return self.costs.pause_s + copying_s * self.costs.slowdown * others

    def start_delay_s(self, host: Host, job: Job) -> float:
        """When a waiting request would begin its prefill here: after the prefills before it, and once enough of those
        before it are predicted to have ended to leave it room."""
        ahead = [one for one in host.waiting if one.request_id != job.request_id and one.queue_order < job.queue_order]
        tokens = sum(one.uncomputed_tokens for one in (*host.running, *ahead))
        return tokens * host.prefill_s_per_token + self._room_wait_s(host, [*ahead, job])

    @staticmethod
    def _room_wait_s(host: Host, queue: Sequence[Job]) -> float:
        """Until the last of `queue` has room, if each starts in its turn as soon as it has, and ends as predicted."""
        free, slots, step = host.free_blocks, host.max_running - len(host.running), 0
        ends = [(job.remaining_tokens, job.blocks) for job in host.running]
        heapify(ends)
        for job in queue:
            while free < job.blocks or slots < 1:
                if not ends:
                    return float("inf")
                step, blocks = heappop(ends)
                free, slots = free + blocks, slots + 1
            free, slots = free - job.blocks, slots - 1
            heappush(ends, (step + job.remaining_tokens, job.blocks))
        return step * host.step_s

    # The one change

    def order(self, job: Job, source: str, target: str, reason: str) -> None:
        giver, taker = self.sides[source], self.sides[target]
        copy_bytes = self.copy_bytes(job, taker.host)
        self.orders.append(Order(job.request_id, job.epoch, job.frontend, source, target, reason, copy_bytes))
        giver.give(job)
        taker.take(job)
        giver.moves_out, giver.out_bytes = giver.moves_out + 1, giver.out_bytes + copy_bytes
        taker.moves_in += 1


def _suits(job: Job, target: Host) -> bool:
    """Prefill does not come to a decode instance, nor decoding to a prefill one."""
    return target.role is not (Role.DECODE if job.uncomputed_tokens else Role.PREFILL)


def _marked(host: Host, moving: set[str]) -> Host:
    """Reports may be older than the orders."""
    if not moving:
        return host
    return replace(host, jobs=tuple(_on_its_way(job) if job.request_id in moving else job for job in host.jobs))


def _on_its_way(job: Job) -> Job:
    return replace(job, phase=Phase.COMING if job.phase in QUEUED else Phase.MOVING)


__all__ = ["Board", "Costs", "Known", "Order", "Side"]
