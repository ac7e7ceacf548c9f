"""One engine as arithmetic: which tokens each step computes, and which KV blocks that takes. No clock, no tokens.

The rules are those of vLLM's V1 scheduler with the priority policy, chunked prefill and prefix caching:

  - A step has a token budget. Running requests come first, in the order in which they were admitted (so decodes come
    before the one partial prefill, which continues with what is left). Then waiting ones are admitted, by priority,
    then arrival, up to `max_num_seqs`. The first that does not fit ends the admission.
  - Admission needs free blocks for all tokens that the request has now, less its prefix hit; blocks are taken only as
    chunks need them. The last token is always computed: a hit covers at most the full blocks before it.
  - A running request that finds no block preempts the running request of lowest priority, latest arrival first, itself
    perhaps. The victim loses its blocks and waits for recomputation; nothing is admitted in that step.
  - A full block enters the prefix cache when the step that fills it is scheduled, so two equal prompts may share in one
    step. (vLLM does so even if the same pass then preempts the request; here those blocks are not entered.)

A step is `schedule()`, then `complete()`. Between the two, requests may be added and removed, but not parked: their
tokens are in flight. Steps that only decode may be taken many at once: `quiet_steps()`, then `skip()`. The fake engine
and the simulator are thin shells around this class.
"""

from __future__ import annotations

from itertools import count

from shoal.instance.model_blocks import BlockTables
from shoal.instance.model_cache import BrokenLedger
from shoal.instance.model_guests import Guests
from shoal.instance.model_request import ModelRequest, State, WaitingQueue
from shoal.instance.seam import EngineLoad
from shoal.instance.step_plan import Outcome, Plan


class StepModel:
    """Sole owner of its requests, its queue and its block tables."""

    def __init__(
        self,
        *,
        block_size: int,
        total_blocks: int,
        max_num_batched_tokens: int,
        max_num_seqs: int,
        max_model_len: int,
        record_changes: bool = True,
    ) -> None:
        if max_model_len > total_blocks * block_size:
            raise ValueError(
                f"max_model_len {max_model_len} does not fit into {total_blocks} blocks of {block_size} tokens"
            )
        self.block_size, self.max_model_len = block_size, max_model_len
        self.max_num_batched_tokens, self.max_num_seqs = max_num_batched_tokens, max_num_seqs
        self.running: list[ModelRequest] = []
        self.parked: list[ModelRequest] = []
        self.waiting = WaitingQueue()
        self.blocks = BlockTables(block_size=block_size, total_blocks=total_blocks, record_changes=record_changes)
        self.guests = Guests(self.blocks)
        self._numbers = count()
        self._plan: Plan | None = None
        self._decodes_only = False  # True: all that run are past their first token, as `quiet_steps` has seen

    # -- requests come and go

    def add(self, request: ModelRequest) -> None:
        self._welcome(request)
        request.move(State.WAITING)
        self._enqueue(request)

    def _welcome(self, request: ModelRequest) -> None:
        request.number = next(self._numbers)
        request.limit_tokens = min(request.limit_tokens, self.max_model_len)
        if request.tokens >= request.limit_tokens:
            raise ValueError(f"{request!r}: no room for another token in {self.max_model_len}")

    def remove(self, request: ModelRequest) -> None:
        """It ends here: aborted, stopped by its content, or moved away. Its sealed blocks stay cached."""
        if request.state is State.DONE:
            return
        former = request.state
        request.move(State.DONE)
        if former is State.WAITING:
            self.waiting.discard(request)
            return
        holders = {State.RUNNING: self.running, State.PARKED: self.parked, State.LEASED: self.guests.leased}
        holders[former].remove(request)
        self.blocks.close(request)

    def park(self, request: ModelRequest) -> None:
        """Out of the batch or the queue at a step boundary. Undone by `unpark`, ended by `remove`."""
        self._require_boundary()
        former = request.state
        request.move(State.PARKED)
        if former is State.WAITING:
            self.waiting.take_out(request)
        else:
            self.running.remove(request)
        self.parked.append(request)

    def unpark(self, request: ModelRequest) -> None:
        self.parked.remove(request)
        if request.holding.blocks:
            request.move(State.RUNNING)
            self._run(request)
        else:
            request.move(State.WAITING)
            self._enqueue(request)

    def lease(self, request: ModelRequest, tokens: int) -> int | None:
        self._welcome(request)
        return self.guests.lease(request, tokens)

    def hold(self, request: ModelRequest, computed: int) -> bool:
        """A leased request has the KV of its first `computed` tokens: parked until `unpark`. False: no slot."""
        if not 0 < computed < request.tokens or computed > request.room_tokens:
            raise ValueError(f"{request!r}: cannot hold {computed} computed tokens")
        if self._free_slots() <= 0:
            return False
        request.move(State.PARKED)
        self.guests.leased.remove(request)
        self.parked.append(request)
        request.computed = computed
        return True

    # -- a step

    def schedule(self) -> Plan:
        """Decide the next step. An empty plan means that nothing can run now; it too wants its `complete`."""
        self._require_boundary()
        plan = Plan(self.max_num_batched_tokens)
        self._continue_running(plan)
        if not plan.preempted:
            while plan.left_tokens > 0 and len(self.waiting) and self._free_slots() > 0:
                if not self._admit(self.waiting.peek(), plan):
                    break
        self._plan = plan
        return plan

    def _continue_running(self, plan: Plan) -> None:
        filled: list[tuple[ModelRequest, int]] = []
        for request in tuple(self.running):
            if plan.left_tokens == 0:
                break
            if request.tokens <= request.quiet_tokens and request.computed + 1 == request.tokens:
                plan.decodes.append(request)  # the common case, in place: a decode within its block
                plan.left_tokens -= 1
                continue
            if request.state is not State.RUNNING:
                continue  # preempted in this pass
            tokens = min(request.tokens - request.computed, plan.left_tokens)
            end = request.computed + tokens
            if not self._make_room(request, end, plan):
                break
            filled.append((request, end))
            plan.add(request, tokens)
        for request, end in filled:
            if request.state is State.RUNNING:
                self.blocks.seal(request, end)

    def _make_room(self, request: ModelRequest, end: int, plan: Plan) -> bool:
        """Blocks for `end` tokens, at the cost of others if need be. False: it had to give way itself."""
        if end <= request.room_tokens:
            return True
        missing = self.blocks.missing(request, end)
        while missing > self.blocks.free:
            victim = max(self.running, key=lambda running: running.order)
            self._preempt(victim, plan)
            if victim is request:
                return False
        self.blocks.grow(request, end)
        return True

    def _preempt(self, victim: ModelRequest, plan: Plan) -> None:
        plan.withdraw(victim)
        plan.preempted.append(victim)
        victim.move(State.WAITING)
        self.running.remove(victim)
        self.blocks.close(victim)
        victim.computed = 0
        victim.preemptions += 1
        self._enqueue(victim)

    def _free_slots(self) -> int:
        return self.max_num_seqs - len(self.running) - len(self.parked)

    def _admit(self, request: ModelRequest, plan: Plan) -> bool:
        """Start the head of the queue, or leave it where it is for want of blocks."""
        hit = self.blocks.hit(request, request.tokens - 1)
        if not self.blocks.fits(request, request.tokens, hit):
            return False
        self.waiting.pop().move(State.RUNNING)
        self._run(request)
        tokens = min(request.tokens - hit, plan.left_tokens)
        self.blocks.open(request, hit + tokens, hit)
        request.computed = hit
        if request.preemptions == 0:
            request.cached_tokens = hit
        plan.add(request, tokens)
        return True

    def _run(self, request: ModelRequest) -> None:
        self.running.append(request)
        self._decodes_only = False

    def _enqueue(self, request: ModelRequest) -> None:
        request.queued_tokens = request.tokens - self.blocks.hit(request, request.tokens - 1)
        self.waiting.push(request)

    def complete(self) -> Outcome:
        """The scheduled step was computed: each request whose last token it held has one more output token."""
        plan, self._plan = self._plan, None
        if plan is None:
            raise BrokenLedger("complete without schedule")
        running = State.RUNNING
        sampled = [request for request in plan.decodes if request.state is running]
        for request in sampled:
            request.computed += 1
        for request, tokens, _context in plan.prefills:
            if request.state is running:
                request.computed += tokens
                if request.computed == request.tokens:
                    sampled.append(request)
        for request in sampled:
            request.tokens += 1
        finished = [request for request in sampled if request.tokens >= request.limit_tokens]
        self._finish(finished)
        return Outcome(sampled, finished)

    def _finish(self, finished: list[ModelRequest]) -> None:
        if not finished:
            return
        for request in finished:
            request.move(State.DONE)
            self.blocks.close(request)
        self.running = [request for request in self.running if request.state is State.RUNNING]

    # -- many steps at once

    def quiet_steps(self) -> int:
        """How many steps from here only give each running request its next token, never a first one, and maybe end
        some with the last of them, if nothing comes in between. 0: ask `schedule`."""
        running = self.running
        left_tokens = self.max_num_batched_tokens - len(running)
        if not running or left_tokens < 0:
            return 0
        if not self._decodes_only:
            self._decodes_only = all([r.tokens - r.computed == 1 and r.tokens != r.prompt_tokens for r in running])
        if not self._decodes_only:
            return 0
        steps = min([r.limit_tokens - r.tokens for r in running])
        if left_tokens and len(self.waiting) and self._free_slots() > 0:
            head = self.waiting.peek()
            if self.blocks.fits(head, head.tokens, self.blocks.hit(head, head.tokens - 1)):
                return 0
            # It waits for blocks: only while none is taken or named is it sure to go on waiting.
            return max(0, min(steps, *[r.quiet_tokens - r.computed for r in running]))
        return self.blocks.steps_with_room(running, steps)

    def skip(self, steps: int) -> list[ModelRequest]:
        """Take at most `quiet_steps()` steps at once. Returns those that ended with the last one."""
        self._require_boundary()
        self.blocks.decode(self.running, steps)
        for request in self.running:
            request.computed += steps
            request.tokens += steps
        finished = [request for request in self.running if request.tokens >= request.limit_tokens]
        self._finish(finished)
        return finished

    # -- what others may know

    def has_work(self) -> bool:
        return bool(self.running) or len(self.waiting) > 0

    def load(self) -> EngineLoad:
        """Queued tokens are those that were uncached when the request was queued."""
        uncached = [] if self._decodes_only else [request.tokens - request.computed for request in self.running]
        return EngineLoad(
            running=len(self.running),
            waiting=len(self.waiting),
            queued_prefill_tokens=self.waiting.queued_tokens,
            uncached_prefill_tokens=sum(uncached) - uncached.count(1),  # one token is a decode
            context_tokens=sum([request.computed for request in self.running]),
            free_blocks=self.blocks.free,
            total_blocks=self.blocks.total,
        )

    def check(self) -> None:
        """Every block is accounted for, and every request is where its state says. Raises BrokenLedger."""
        self.blocks.check([*self.running, *self.parked, *self.guests.leased], self.guests.pins)
        for request in self.waiting.requests():
            if request.holding.blocks:
                raise BrokenLedger(f"{request!r} waits and holds {request.holding.blocks} blocks")
        by_state = ((State.RUNNING, self.running), (State.PARKED, self.parked), (State.LEASED, self.guests.leased))
        for state, requests in by_state:
            if any(request.state is not state for request in requests):
                raise BrokenLedger(f"not {state.value}: {requests!r}")

    def _require_boundary(self) -> None:
        if self._plan is not None:
            raise BrokenLedger("a step is in flight: complete it first")


__all__ = ["StepModel"]
