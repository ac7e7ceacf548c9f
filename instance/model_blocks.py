"""Which blocks each request of the step model holds, in tokens on one side and in cache counts on the other.

Between two events a request needs nothing from here: up to `quiet_tokens` computed tokens it neither needs another
block nor fills one. That is what makes a step of many decodes cheap.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Iterable, Sequence

from shoal.instance.model_cache import BrokenLedger, Change, Holding, ModelCache
from shoal.instance.model_request import ModelRequest


class BlockTables:
    """Sole owner of the cache, and sole writer of a request's holding, room_tokens, sealed and quiet_tokens."""

    __slots__ = ("_cache", "block_size")

    def __init__(self, *, block_size: int, total_blocks: int, record_changes: bool) -> None:
        self.block_size = block_size
        self._cache = ModelCache(total_blocks, record_changes=record_changes)

    @property
    def free(self) -> int:
        return self._cache.free

    @property
    def total(self) -> int:
        return self._cache.total

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self.block_size)

    def hit(self, request: ModelRequest, tokens: int) -> int:
        """Of the first `tokens` tokens, how many are cached: whole blocks from the start. Renews nothing."""
        full = tokens // self.block_size
        return self._cache.match(request.keys.first(full), full) * self.block_size

    def fits(self, request: ModelRequest, tokens: int, hit: int) -> bool:
        """Is there room for `tokens` tokens of a request that holds nothing, sharing `hit` of them?"""
        hits = hit // self.block_size
        taken = self._blocks(tokens) - hits + self._cache.cost(request.keys.first(hits), hits)
        return taken <= self._cache.free

    def open(self, request: ModelRequest, tokens: int, hit: int) -> None:
        """First blocks of a request: those of its hit, and what `tokens` tokens need beyond."""
        self.reserve(request, tokens, hit)
        self.seal(request, tokens)

    def reserve(self, request: ModelRequest, tokens: int, hit: int) -> None:
        """As `open`, but what lies beyond the hit has no content yet."""
        hits = hit // self.block_size
        self._cache.share(request.holding, request.keys.first(hits)[:hits])
        request.sealed = hits
        self.grow(request, tokens)

    def pin(self, keys: Iterable[Hashable]) -> Holding:
        """Those of them that are cached stay so until `unpin`."""
        holding = Holding([])
        self._cache.share(holding, [key for key in keys if key in self._cache])
        return holding

    def unpin(self, holding: Holding) -> None:
        self._cache.release(holding)

    def missing(self, request: ModelRequest, tokens: int) -> int:
        """Blocks to be taken before `tokens` tokens have room."""
        return self._blocks(tokens) - request.holding.blocks

    def grow(self, request: ModelRequest, tokens: int) -> None:
        self._cache.take(request.holding, self.missing(request, tokens))
        request.room_tokens = request.holding.blocks * self.block_size
        self._settle(request)

    def seal(self, request: ModelRequest, tokens: int) -> None:
        """The blocks that `tokens` tokens fill enter the prefix cache under their names, where they have one."""
        full = tokens // self.block_size
        for key in request.keys.first(full)[request.sealed : full]:
            self._cache.seal(request.holding, key)
        request.sealed = full
        self._settle(request)

    def _settle(self, request: ModelRequest) -> None:
        request.quiet_tokens = min(request.room_tokens, (request.sealed + 1) * self.block_size - 1)

    def steps_with_room(self, requests: Sequence[ModelRequest], steps: int) -> int:
        """How many of `steps` steps that give every request one token find all blocks they need."""
        if len(requests) * (steps // self.block_size + 1) <= self._cache.free:
            return steps

        def needed(count: int) -> int:
            return sum([max(0, self.missing(request, request.tokens + count - 1)) for request in requests])

        return bisect_right(range(1, steps + 1), self._cache.free, key=needed)

    def decode(self, requests: Sequence[ModelRequest], steps: int) -> None:
        """Take and name what `steps` such steps take and name, in the order in which they would: step by step, within a
        step first all that is taken, and by the order of `requests`.
        """
        due = [r for r in requests if r.tokens + steps - 1 > r.quiet_tokens]
        if not due:
            return
        ends = [request.tokens + steps - 1 for request in due]
        taken = sum([self.missing(request, end) for request, end in zip(due, ends, strict=True)])
        if taken <= self._cache.blank and not any(map(self._names, due, ends)):
            for request, end in zip(due, ends, strict=True):  # nothing is evicted or named: any order will do
                self.grow(request, end)
                self.seal(request, end)
            return
        moments = [moment for order, request in enumerate(due) for moment in self._moments(request, steps, order)]
        for _, fills, order, tokens in sorted(moments):
            (self.seal if fills else self.grow)(due[order], tokens)

    def _names(self, request: ModelRequest, tokens: int) -> bool:
        full = tokens // self.block_size
        return len(request.keys.first(full)) > request.sealed < full

    def _moments(self, request: ModelRequest, steps: int, order: int) -> list[tuple[int, bool, int, int]]:
        """(step, fills a block?, order, tokens) of each block it takes or fills within `steps` steps."""
        first, last, size = request.tokens, request.tokens + steps - 1, self.block_size
        taken = [(tokens - first, False, order, tokens) for tokens in range(request.room_tokens + 1, last + 1, size)]
        filled = range((request.sealed + 1) * size, last + 1, size)
        return taken + [(tokens - first, True, order, tokens) for tokens in filled]

    def close(self, request: ModelRequest) -> None:
        """It gives everything back; its sealed blocks stay cached until their room is needed."""
        self._cache.release(request.holding)
        request.room_tokens = request.sealed = request.quiet_tokens = 0

    def install(self, keys: Iterable[Hashable]) -> int:
        """Blocks that came from elsewhere enter the prefix cache. Returns how many were new."""
        return self._cache.install(keys)

    def reset(self) -> bool:
        """Forget all contents. False while any block is held."""
        return self._cache.clear()

    def take_changes(self) -> list[tuple[Change, list[Hashable]]]:
        return self._cache.take_changes()

    def check(self, holders: Sequence[ModelRequest], pins: Sequence[Holding] = ()) -> None:
        """Every block is accounted for, given all requests that may hold some. Raises BrokenLedger."""
        self._cache.check([*(request.holding for request in holders), *pins])
        for request in holders:
            room_tokens = request.holding.blocks * self.block_size
            if request.room_tokens != room_tokens or room_tokens < request.computed:
                raise BrokenLedger(f"{request!r}: counts {request.room_tokens} slots, has {room_tokens}")


__all__ = ["BlockTables"]
