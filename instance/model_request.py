"""One request inside the step model, and the queue of those that wait. Tokens are counted here, never looked at.

state     where it is                                          holds blocks
NEW       made, not given to a model yet                       no
WAITING   in the waiting queue (first time, or preempted)      no
RUNNING   in the batch                                         yes
LEASED    on its way here: room taken, nothing runs            yes
PARKED    out of the batch, slot and blocks kept (migration)   yes, if it had any
DONE      finished, aborted or moved away                      no
"""

from __future__ import annotations

import heapq
from enum import Enum

from shoal.instance.block_keys import BlockKeys, ListedKeys
from shoal.instance.model_cache import Holding


class State(Enum):
    NEW = "new"
    WAITING = "waiting"
    RUNNING = "running"
    LEASED = "leased"
    PARKED = "parked"
    DONE = "done"


NEXT: dict[State, frozenset[State]] = {
    State.NEW: frozenset({State.WAITING, State.PARKED, State.LEASED}),
    State.WAITING: frozenset({State.RUNNING, State.PARKED, State.DONE}),
    State.RUNNING: frozenset({State.WAITING, State.PARKED, State.DONE}),
    State.LEASED: frozenset({State.PARKED, State.DONE}),
    State.PARKED: frozenset({State.RUNNING, State.WAITING, State.DONE}),
    State.DONE: frozenset(),
}


class IllegalMove(AssertionError):
    """A bug of the caller: the state table has no such arrow."""

    def __init__(self, request_id: str, source: State, target: State) -> None:
        super().__init__(f"{request_id}: {source.value} -> {target.value}")


class ModelRequest:
    """`delivered` output tokens exist already when it comes from another engine; `max_new` counts them too.

    The StepModel that it was given to is its sole writer. `computed` counts tokens of finished steps and prefix hits.
    """

    __slots__ = (
        "arrival_s",
        "cached_tokens",
        "computed",
        "holding",
        "keys",
        "limit_tokens",
        "number",
        "preemptions",
        "priority",
        "prompt_tokens",
        "queued_tokens",
        "quiet_tokens",
        "request_id",
        "room_tokens",
        "sealed",
        "state",
        "tokens",
    )

    def __init__(
        self,
        request_id: str,
        *,
        prompt_tokens: int,
        max_new: int,
        delivered: int = 0,
        priority: int = 0,
        arrival_s: float = 0.0,
        keys: BlockKeys | None = None,
    ) -> None:
        if prompt_tokens < 1 or not 0 <= delivered < max_new:
            raise ValueError(f"{request_id}: prompt {prompt_tokens}, delivered {delivered} of {max_new} tokens")
        self.request_id = request_id
        self.prompt_tokens = prompt_tokens
        self.tokens = prompt_tokens + delivered
        self.limit_tokens = prompt_tokens + max_new
        self.priority = priority
        self.arrival_s = arrival_s
        self.keys: BlockKeys = ListedKeys() if keys is None else keys
        self.number = 0  # order of arrival at the model: breaks ties
        self.state = State.NEW
        self.computed = 0
        self.holding = Holding([])
        self.room_tokens = 0  # slots in the blocks held
        self.sealed = 0  # leading blocks that were offered to the cache
        self.quiet_tokens = 0  # up to here it needs and fills no block
        self.queued_tokens = 0  # uncached tokens at the time of queueing
        self.cached_tokens = 0  # prefix hit of the first admission
        self.preemptions = 0

    @property
    def output_tokens(self) -> int:
        return self.tokens - self.prompt_tokens

    @property
    def order(self) -> tuple[int, float, int]:
        """Smaller is served first and preempted last."""
        return (self.priority, self.arrival_s, self.number)

    def move(self, target: State) -> None:
        if target not in NEXT[self.state]:
            raise IllegalMove(self.request_id, self.state, target)
        self.state = target

    def __repr__(self) -> str:
        return f"<{self.request_id} {self.state.value} {self.computed}/{self.tokens} of {self.limit_tokens}>"


class WaitingQueue:
    """Priority first, then arrival. Entries whose request left by another way than `pop` are dropped when they come up,
    or by a sweep once they are the majority: `discard` is cheap and memory stays proportional to what waits.
    """

    __slots__ = ("_heap", "_waiting", "queued_tokens")

    def __init__(self) -> None:
        self._heap: list[tuple[int, float, int, ModelRequest]] = []
        self._waiting = 0
        self.queued_tokens = 0

    def __len__(self) -> int:
        return self._waiting

    def push(self, request: ModelRequest) -> None:
        heapq.heappush(self._heap, (*request.order, request))
        self._waiting += 1
        self.queued_tokens += request.queued_tokens

    def peek(self) -> ModelRequest:
        while self._heap[0][3].state is not State.WAITING:
            heapq.heappop(self._heap)
        return self._heap[0][3]

    def pop(self) -> ModelRequest:
        """The caller moves it to another state."""
        request = self.peek()
        heapq.heappop(self._heap)
        self._forget(request)
        return request

    def discard(self, request: ModelRequest) -> None:
        """It waits no more: the caller has moved it to another state."""
        self._forget(request)
        if len(self._heap) > 64 and len(self._heap) > 2 * self._waiting:
            self._heap = [entry for entry in self._heap if entry[3].state is State.WAITING]
            heapq.heapify(self._heap)

    def take_out(self, request: ModelRequest) -> None:
        """It may come back. Rare, so its entry goes at once: two of one request could not be told apart."""
        self._forget(request)
        self._heap = [entry for entry in self._heap if entry[3] is not request]
        heapq.heapify(self._heap)

    def _forget(self, request: ModelRequest) -> None:
        self._waiting -= 1
        self.queued_tokens -= request.queued_tokens

    def requests(self) -> list[ModelRequest]:
        """In service order."""
        return [entry[3] for entry in sorted(self._heap) if entry[3].state is State.WAITING]


__all__ = ["NEXT", "IllegalMove", "ModelRequest", "State", "WaitingQueue"]
