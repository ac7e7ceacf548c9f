"""Which requests should move, from where to where, and why. Pure: reports in, orders out.

Five rules, in this order; each sees what the ones before it decided (`board`):

  drain       everything leaves a draining host: what waits first (nothing is copied), then short contexts
  pass on     what decodes on a prefill host goes to a decode host: its own hand-over failed, or the role is new
  waiting     a request that waits goes where it would start sooner, by more than the move costs
  defragment  the head of a queue that fits nowhere gets room made for it: low class and short requests leave its host
  relief      a host whose running requests will soon want more blocks than there are gives one to the freest host,
              before the engine preempts it (which throws its computed tokens away)

A move is made only where the seconds it saves exceed its cost by `min_gain_s`. Nothing ping-pongs: a moved request
rests, longer each time, and a target never ends up less free than its source was.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shoal.proto.config import MigrationConfig
from shoal.router.board import Board, Costs, Known, Order
from shoal.router.contract import Role
from shoal.router.fleet import Host, Job, Phase
from shoal.router.load import freeness
from shoal.router.rank import Rank

DRAIN, BALANCE, DEFRAGMENT, PRIORITY, PASS_ON = "drain", "balance", "defragment", "priority", "disaggregate"
MAX_VICTIMS = 4  # requests moved away to make room for one head of a queue
MAX_WAITERS = 32  # of one queue that are looked at in one plan
STRANDED_TOKENS = 8  # output of one that decodes where it was prefilled: its planned hand-over would be over


def plan(
    hosts: Iterable[Host],
    flying: Sequence[Order],
    rules: MigrationConfig,
    costs: Costs,
    known: Known,
    settling: Sequence[Order] = (),
) -> list[Order]:
    """Moves to begin now. `flying`: those that were begun and have not ended; `settling`: that ended a moment ago."""
    board = Board.of(hosts, flying, rules, costs, known, settling)
    names = list(board.sides)
    for name in names:
        _drain(board, name)
    if rules.enabled:
        for rule in (_pass_on, _send_waiting, _defragment, _relieve):
            for name in names:
                if not board.sides[name].host.draining:
                    rule(board, name)
    return board.orders


def leaving_order(job: Job) -> tuple[int, int]:
    """Who leaves first: low class, then short."""
    return -job.rank, job.computed_tokens


def _drain(board: Board, source: str) -> None:
    """A draining host is emptied whatever it costs, within the budget of copies."""
    host = board.sides[source].host
    if not host.draining:
        return
    jobs = [job for job in host.jobs if not job.unmovable and job.phase in (Phase.RUNNING, Phase.WAITING)]
    for job in sorted(jobs, key=lambda job: (job.phase is not Phase.WAITING, *leaving_order(job))):
        targets = [one for one in board.targets(host) if board.can_move(job, host, one)]
        if job.phase is not Phase.WAITING:
            targets = [one for one in targets if board.has_room(one, job)]
        if targets:
            best = targets[0] if job.phase is not Phase.WAITING else _soonest(board, targets, job)
            board.order(job, source, best.id, DRAIN)


def _pass_on(board: Board, source: str) -> None:
    host = board.sides[source].host
    if host.role is not Role.PREFILL:
        return
    for job in sorted(_leavers(board, host, Rank.HIGH), key=leaving_order):
        targets = [one for one in board.targets(host) if one.role is Role.DECODE and board.can_move(job, host, one)]
        target = next((one for one in targets if board.has_room(one, job)), None)
        if target is not None and job.output_tokens >= STRANDED_TOKENS:
            board.order(job, source, target.id, PASS_ON)


def _soonest(board: Board, targets: list[Host], job: Job) -> Host:
    return min(targets, key=lambda host: board.start_delay_s(host, job))


def _send_waiting(board: Board, source: str) -> None:
    for job in board.sides[source].host.waiting[:MAX_WAITERS]:
        host = board.sides[source].host
        targets = [one for one in board.targets(host) if board.movable(job) and board.can_move(job, host, one)]
        if not targets or job.age_s < 2 * host.step_s:  # it may only wait for the step in flight
            continue
        best = _soonest(board, targets, job)
        delay_s, there_s = board.start_delay_s(host, job), board.start_delay_s(best, job)
        if delay_s - there_s > board.cost_s(job, host, best) + board.rules.min_gain_s:
            board.order(job, source, best.id, PRIORITY if job.rank is Rank.HIGH else BALANCE)


def _defragment(board: Board, source: str) -> None:
    """Only for the head: whoever is behind it waits for it anyway."""
    host = board.sides[source].host
    head = next(iter(host.waiting), None)
    if head is None or head.phase is Phase.COMING or host.free_blocks >= head.blocks or head.age_s < 2 * host.step_s:
        return
    victims = _victims(board, host, head)
    copying_s = board.copy_s(sum(board.copy_bytes(job, target) for job, target in victims))
    cost_s = copying_s + sum(board.cost_s(job, host, target) for job, target in victims)
    if victims and board.start_delay_s(host, head) > cost_s + board.rules.min_gain_s:
        for job, target in victims:
            board.order(job, source, target.id, DEFRAGMENT)


def _victims(board: Board, host: Host, head: Job) -> list[tuple[Job, Host]]:
    """Running requests, none before the head in class, that together leave it enough room; empty if there are none.

    Each with a target; their room there is counted together.
    """
    missing, chosen = head.blocks - host.free_blocks, []
    taken: dict[str, int] = {}
    for job in sorted(_leavers(board, host, head.rank), key=leaving_order):
        for target in board.targets(host):
            spare = target.free_blocks - taken.get(target.id, 0)
            if spare > job.blocks and board.has_room(target, job) and board.can_move(job, host, target):
                taken[target.id] = taken.get(target.id, 0) + job.blocks
                chosen.append((job, target))
                missing -= job.blocks
                break
        if missing <= 0 or len(chosen) == min(MAX_VICTIMS, board.rules.moves_per_instance):
            break
    return chosen if missing <= 0 else []


def _leavers(board: Board, host: Host, rank: Rank) -> list[Job]:
    return [job for job in host.running if board.movable(job) and not job.uncomputed_tokens and job.rank >= rank]


def _relieve(board: Board, source: str) -> None:
    rules = board.rules
    for _ in range(rules.moves_per_instance):
        host = board.sides[source].host
        before = freeness(host, rules.headroom_tokens)
        if before >= rules.crowded_below_tokens or not host.running:
            return
        pair = _best_relief(board, host, before)
        if pair is None:
            return
        isolates = freeness(host) >= rules.crowded_below_tokens  # only the headroom makes it look full
        board.order(*pair, PRIORITY if isolates else BALANCE)


def _best_relief(board: Board, host: Host, before: float) -> tuple[Job, str, str] | None:
    for job in sorted(_leavers(board, host, Rank.HIGH), key=leaving_order):
        lasts_s = job.remaining_tokens * host.step_s
        for target in board.targets(host):
            if not (board.has_room(target, job) and board.can_move(job, host, target)):
                continue
            after = _freeness_with(target, job, board.rules.headroom_tokens)
            lasting = lasts_s > 2 * board.copy_s(board.copy_bytes(job, target)) + board.costs.pause_s
            if (
                after > max(before, board.rules.crowded_below_tokens)
                and lasting
                and _is_worth_it(board, host, target, job)
            ):
                return job, host.id, target.id
    return None


def _freeness_with(target: Host, job: Job, headroom_tokens: int) -> float:
    batch = len(target.running) + any(target.waiting)
    return (freeness(target, headroom_tokens) * max(batch, 1) - job.blocks * target.block_size) / (batch + 1)


def _is_worth_it(board: Board, host: Host, target: Host, job: Job) -> bool:
    """Saved: the prefill that a preemption would repeat, and the wait for room before it. A preemption comes where the
    batch is predicted to want more blocks than are free."""
    growth_tokens = sum(one.remaining_tokens for one in host.running)
    if growth_tokens <= host.free_blocks * host.block_size:
        return job.rank is not Rank.HIGH and freeness(host) >= board.rules.crowded_below_tokens
    waits_s = min(one.remaining_tokens for one in host.running) * host.step_s
    saved_s = job.tokens * host.prefill_s_per_token + waits_s
    return saved_s > board.cost_s(job, host, target) + board.rules.min_gain_s


__all__ = ["BALANCE", "DEFRAGMENT", "DRAIN", "PASS_ON", "PRIORITY", "leaving_order", "plan"]
