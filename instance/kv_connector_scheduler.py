"""The scheduler's half of the connector: asks the pool about waiting requests, plans loads, and picks blocks to save.

Lives on the step thread and blocks it never: questions to the pool are answered by another thread, copies are the
worker's. A block that is being saved is held (touched) until the worker has reported; a request is loaded for at most
once, so that a load that failed is recomputed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from shoal.instance.kv_connector_policy import Sightings, Speeds, is_worth_fetching
from shoal.proto.tracing import HEADER

ANSWER_AGE_S = 1.0  # an older answer of the pool's is asked for again
HELD_BLOCKS = 128  # at most so many are held for saving at any time
NET_BLOCKS = 16  # at the head of the free queue: the next to go


@dataclass(frozen=True, slots=True)
class Load:
    request_id: str
    salt: str
    hashes: tuple[bytes, ...]
    block_ids: tuple[int, ...]
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class Save:
    number: int
    salt: str
    hashes: tuple[bytes, ...]
    block_ids: tuple[int, ...]


@dataclass(slots=True)
class Done:
    """What workers report: loads (request, ms, bytes), and of each save, per rank, which blocks are stored."""

    loads: list[tuple[str, float, int]] = field(default_factory=list)
    saves: dict[int, list[tuple[bool, ...]]] = field(default_factory=dict)

    def merge(self, other: Done) -> Done:
        """Of two ranks in one step. Ranks load alike, so one of them is enough to time it by."""
        numbers = self.saves.keys() | other.saves.keys()
        both = {number: self.saves.get(number, []) + other.saves.get(number, []) for number in numbers}
        return Done(self.loads or other.loads, both)


@dataclass(slots=True)
class Held:
    """Blocks that stay until every rank has reported."""

    hashes: tuple[bytes, ...]
    blocks: list[Any]
    ranks_left: int


@dataclass(slots=True)
class Question:
    answer: Future[int]
    asked_s: float
    local_blocks: int
    blocks: int = 0  # that will be loaded


class PoolScheduler:
    """Owns the questions, the plan of the next step, and which blocks are held. `ask(salt, hashes)` must not block."""

    def __init__(
        self,
        ask: Callable[[str, Sequence[bytes]], Future[int]],
        blocks: Any,
        *,
        block_size: int,
        block_bytes: int,
        budget_tokens: int,
        ranks: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ask, self.blocks, self.clock = ask, blocks, clock
        self.block_size, self.block_bytes, self.budget_tokens, self.ranks = (
            block_size,
            block_bytes,
            budget_tokens,
            ranks,
        )
        self.sightings, self.speeds = Sightings(4 * blocks.num_gpu_blocks), Speeds()
        self.questions: dict[str, Question] = {}
        self.loading: dict[str, int] = {}  # request -> bytes
        self.tried: set[str] = set()
        self.seen_blocks: dict[str, int] = {}  # of a request: so many were considered for saving
        self.loads: list[Load] = []
        self.saves: list[Save] = []
        self.held: dict[int, Held] = {}  # by save
        self.numbers = 0

    # -- loading

    def matched(self, request: Any, local_tokens: int) -> tuple[int | None, bool]:
        """vLLM's question: how many tokens beyond the local ones? None: ask me again."""
        local = local_tokens // self.block_size
        wanted = request.block_hashes[local:]
        if not wanted or request.request_id in self.tried:
            return 0, False
        question = self.questions.get(request.request_id)
        now_s = self.clock()
        if question is None or question.local_blocks != local or now_s - question.asked_s > ANSWER_AGE_S:
            answer = self.ask(request.cache_salt or "", list(wanted))
            question = self.questions[request.request_id] = Question(answer, now_s, local)
        if not question.answer.done():
            return None, False
        question.blocks = self._worthwhile(question.answer.result())
        return question.blocks * self.block_size, question.blocks > 0

    def _worthwhile(self, blocks: int) -> int:
        fetch = blocks and is_worth_fetching(
            self.speeds,
            tokens=blocks * self.block_size,
            fetch_bytes=blocks * self.block_bytes,
            queued_bytes=sum(self.loading.values()),
            budget_tokens=self.budget_tokens,
        )
        return blocks if fetch else 0

    def allocated(self, request: Any, block_ids: Sequence[int], tokens: int) -> None:
        """Blocks to load into are there (tokens > 0), or vLLM tells only that it allocated some."""
        question = self.questions.pop(request.request_id, None)
        if not tokens or question is None:
            return
        first, count = question.local_blocks, -(-tokens // self.block_size)
        hashes = tuple(request.block_hashes[first : first + count])
        block_ids = tuple(block_ids[first : first + count])
        traceparent = (getattr(request, "trace_headers", None) or {}).get(HEADER, "")
        load = Load(request.request_id, request.cache_salt or "", hashes, block_ids, traceparent)
        self.loads.append(load)
        self.tried.add(load.request_id)
        self.loading[load.request_id] = len(hashes) * self.block_bytes
        for block_hash in hashes:
            self.sightings.see(block_hash, load.salt).saved = True

    # -- saving

    def sealed(self, request: Any, block_ids: Sequence[int], computed_tokens: int) -> None:
        """So many of its tokens were computed by finished steps: their full blocks never change again."""
        first, upto = self.seen_blocks.get(request.request_id, 0), computed_tokens // self.block_size
        if upto <= first:
            return
        self.seen_blocks[request.request_id] = upto
        salt, worth = request.cache_salt or "", []
        for position in range(first, min(upto, len(request.block_hashes), len(block_ids))):
            sighting = self.sightings.see(request.block_hashes[position], salt)
            if self.sightings.is_worth_saving(sighting):
                worth.append((request.block_hashes[position], block_ids[position]))
        self._hold(salt, worth)

    def cast_net(self, free_blocks: Iterable[Any], hash_of: Callable[[Any], bytes]) -> None:
        """Blocks that will be evicted next and were used more than once go to the pool first."""
        for block in free_blocks:
            if block.block_hash is None:
                continue
            block_hash = hash_of(block.block_hash)
            sighting = self.sightings.known.get(block_hash)
            if sighting is not None and sighting.uses > 1 and not sighting.saved:
                self._hold(sighting.salt, [(block_hash, block.block_id)])

    def _hold(self, salt: str, worth: list[tuple[bytes, int]]) -> None:
        room = HELD_BLOCKS - sum(len(held.blocks) for held in self.held.values())
        worth = worth[: max(0, room)]
        if not worth:
            return
        self.numbers += 1
        hashes, block_ids = zip(*worth, strict=True)
        blocks = [self.blocks.blocks[block_id] for block_id in block_ids]
        self.blocks.touch(blocks)
        self.held[self.numbers] = Held(hashes, blocks, self.ranks)
        for block_hash in hashes:
            self.sightings.known[block_hash].saved = True  # on its way: nobody else needs to
        self.saves.append(Save(self.numbers, salt, hashes, block_ids))

    # -- ends

    def finished(self, request: Any) -> None:
        for memory in (self.questions, self.seen_blocks):
            memory.pop(request.request_id, None)
        self.tried.discard(request.request_id)

    def take_work(self) -> tuple[list[Load], list[Save]]:
        loads, saves, self.loads, self.saves = self.loads, self.saves, [], []
        return loads, saves

    @property
    def busy(self) -> bool:
        """The engine must go on stepping for the pool's sake."""
        return bool(self.held or self.saves)

    def done(self, report: Done) -> None:
        for request_id, took_ms, moved_bytes in report.loads:
            self.loading.pop(request_id, None)
            self.sightings.reused += moved_bytes // self.block_bytes
            if moved_bytes:
                self.speeds.saw_load(took_ms, moved_bytes)
        for number, ranks in report.saves.items():
            held = self.held[number]
            for stored in ranks:
                self._stored(held, stored)
            if held.ranks_left == 0:
                del self.held[number]
                self.blocks.free_blocks(reversed(held.blocks))

    def _stored(self, held: Held, stored: Sequence[bool]) -> None:
        held.ranks_left -= 1
        for block_hash, there in zip(held.hashes, stored, strict=True):
            sighting = self.sightings.known.get(block_hash)
            if sighting is not None:
                sighting.saved &= there  # refused: a later use may try again
            self.sightings.saved += there


__all__ = ["Done", "Load", "PoolScheduler", "Save"]
