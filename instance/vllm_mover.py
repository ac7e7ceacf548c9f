"""How a request leaves one vLLM engine as it runs and enters another, behind the mover seam.

The target's lease is vLLM's own request, made and never scheduled: public methods give it blocks as they do to one
whose KV data another engine delivers, so it pins what the cache has, its events are right, and it is freed like any
other. To adopt it is to queue it as a preempted request that still owns its blocks: one token is computed, not a block.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Protocol

from shoal.instance.mover import Gone, Lease, NoRoom, Pin, RequestState, Sight
from shoal.instance.seam import Prepared, Refused
from shoal.instance.vllm_seam import VLLM_VERSION, Request, RequestStatus, get_none_hash_seed
from shoal.instance.vllm_sight import engine_hindrance, sealed_blocks, sight_of
from shoal.proto.errors import BadMessage


class Copier(Protocol):
    """Of all ranks: see BlockCopier and RankedCopier. Any thread."""

    block_bytes: int

    def gather(self, block_ids: Sequence[int], into: Any) -> None: ...

    def scatter(self, block_ids: Sequence[int], data: Any) -> None: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class Pinned:
    blocks: list[Any]
    block_ids: list[int]


@dataclass(slots=True)
class Leased:
    """`absent`: positions whose bytes have not come. `fed`: output tokens that its grammar has taken."""

    request: Request
    block_ids: list[int] = field(default_factory=list)
    absent: set[int] = field(default_factory=set)
    fed: int = 0
    state: RequestState | None = None
    over: bool = False


class VllmMover:
    """See `Mover` in mover.py. Works on the engine's scheduler, on its step thread."""

    def __init__(self, core: Any, copier: Copier) -> None:
        self.core, self.copier = core, copier
        self.scheduler = core.scheduler
        self.cache = self.scheduler.kv_cache_manager
        self.pool = self.cache.block_pool
        self.block_bytes = copier.block_bytes
        self.block_size = core.vllm_config.cache_config.block_size
        self.never = engine_hindrance(core.vllm_config, self.scheduler.kv_cache_config)
        self.fingerprint = self._fingerprint()
        self.numbers = itertools.count(1)

    def _fingerprint(self) -> bytes:
        config = self.core.vllm_config
        same = (
            VLLM_VERSION,
            config.use_v2_model_runner,
            config.model_config.hf_config.to_json_string(),
            str(config.model_config.dtype),
            config.cache_config.cache_dtype,
            config.cache_config.kv_cache_layout,
            config.cache_config.prefix_caching_hash_algo,
            get_none_hash_seed(),
            self.block_size,
            self.block_bytes,
            self.core.collective_rpc("shoal_weights_digest"),  # one per rank
        )
        return blake2b(repr(same).encode(), digest_size=16).digest()

    # -- source

    def residents(self) -> list[Sight]:
        return [self._sight(request) for request in self.scheduler.requests.values() if not request.is_finished()]

    def look(self, engine_id: str) -> Sight:
        return self._sight(self._find(engine_id))

    def _find(self, engine_id: str) -> Request:
        request = self.scheduler.requests.get(engine_id)
        if request is None or request.is_finished():
            raise Gone(engine_id)
        return request

    def _sight(self, request: Request) -> Sight:
        return sight_of(
            request,
            parked=request.request_id in self.scheduler.parked,
            held_blocks=len(self._blocks(request)),
            block_size=self.block_size,
            never=self.never,
        )

    def _blocks(self, request: Request) -> Sequence[Any]:
        blocks: Sequence[Any] = self.cache.get_blocks(request.request_id).blocks[0]
        return blocks

    def pin(self, engine_id: str, first: int, limit: int) -> Pin:
        request = self._find(engine_id)
        last = min(sealed_blocks(request, self.block_size), first + limit)
        return self._pin(request, first, last, tuple(request.block_hashes[first:last]))

    def _pin(self, request: Request, first: int, last: int, hashes: tuple[bytes, ...]) -> Pin:
        blocks = list(self._blocks(request)[first:last])
        self.pool.touch(blocks)
        return Pin(first, hashes, len(blocks), Pinned(blocks, [block.block_id for block in blocks]))

    def read(self, pin: Pin, positions: Sequence[int], into: memoryview) -> None:
        if positions:
            self.copier.gather([pin.native.block_ids[position - pin.first] for position in positions], into)

    def unpin(self, pin: Pin) -> None:
        blocks, pin.native.blocks = pin.native.blocks, []
        self.pool.free_blocks(reversed(blocks))

    def park(self, engine_id: str) -> bool:
        parked: bool = self.scheduler.park(self._find(engine_id))
        return parked

    def take_state(self, engine_id: str) -> RequestState:
        request = self._find(engine_id)
        generators = self.core.collective_rpc("shoal_generator", args=(engine_id,))  # the same in all ranks
        return RequestState(tuple(request.output_token_ids), request.num_computed_tokens, generators[0])

    def pin_tail(self, engine_id: str, first: int) -> Pin:
        request = self._find(engine_id)
        return self._pin(request, first, -(-request.num_computed_tokens // self.block_size), ())

    def unpark(self, engine_id: str) -> None:
        self.scheduler.unpark(engine_id)

    def release(self, engine_id: str) -> None:
        self.core.abort_requests([engine_id])

    # -- target

    def lease(self, prepared: Prepared, hashes: Sequence[bytes]) -> Lease:
        request: Request = prepared.native
        if self.never:
            raise Refused(self.never, client_fault=False)
        if request.block_hashes[: len(hashes)] != list(hashes):
            raise Refused("its blocks have other names here", client_fault=False)
        request.request_id = f"lease-{next(self.numbers)}"
        sealed = len(hashes) * self.block_size
        hit, hit_tokens, _boundary = self.cache.get_computed_blocks(request)
        hit_tokens = min(hit_tokens, sealed)
        got = self.cache.allocate_slots(
            request,
            request.num_tokens - sealed + 1,
            num_new_computed_tokens=hit_tokens,
            new_computed_blocks=self.cache.truncate_computed_blocks(hit, hit_tokens),
            num_external_computed_tokens=sealed - hit_tokens,
            delay_cache_blocks=True,
            skip_zeroing_group_ids=(0,),
        )
        if got is None:
            raise NoRoom(f"{request.num_tokens} tokens")
        leased, whole = Leased(request), hit_tokens // self.block_size
        self._note_blocks(leased, whole)
        return Lease(request.request_id, tuple(range(whole, len(hashes))), leased)

    def _note_blocks(self, leased: Leased, whole: int) -> None:
        leased.block_ids = [block.block_id for block in self._blocks(leased.request)]
        leased.absent.update(range(whole, len(leased.block_ids)))

    def grow(self, lease: Lease, output: Sequence[int]) -> None:
        leased: Leased = lease.native
        request, known = leased.request, len(leased.block_ids)
        request.append_output_token_ids(list(output))
        if request.num_tokens < known * self.block_size:  # a place for the token after it, too
            return
        if self.cache.allocate_slots(request, request.num_tokens + 1, delay_cache_blocks=True) is None:
            raise NoRoom(f"{request.num_tokens} tokens")
        self._note_blocks(leased, known)

    def write(self, lease: Lease, positions: Sequence[int], data: memoryview) -> None:
        leased: Leased = lease.native
        if not leased.absent.issuperset(positions):  # others may be reading what was there already
            raise BadMessage(f"{lease.lease_id}: of blocks {list(positions)} some are not awaited")
        if positions:
            self.copier.scatter([leased.block_ids[position] for position in positions], data)
            leased.absent.difference_update(positions)
        self._feed_grammar(leased)  # here, since it grows with the output and this is not the step thread

    def _feed_grammar(self, leased: Leased) -> bool:
        """False: it is not ready, or failed."""
        request = leased.request
        output, grammar = request.output_token_ids[leased.fed :], request.structured_output_request
        if grammar is None or not output:
            return True
        if not grammar.is_grammar_ready or isinstance(grammar.grammar, Exception):
            return False
        if not self.core.structured_output_manager.accept_tokens(request, output):
            raise Refused("its grammar refuses its own output", client_fault=False)
        leased.fed += len(output)
        return True

    def seal(self, lease: Lease, blocks: int) -> None:
        leased: Leased = lease.native
        self._check_whole(leased, blocks)
        self.cache.cache_blocks(leased.request, blocks * self.block_size)

    @staticmethod
    def _check_whole(leased: Leased, blocks: int) -> None:
        absent = tuple(leased.absent)  # taken at once: the next blocks may be written meanwhile
        if blocks > len(leased.block_ids) or any(position < blocks for position in absent):
            raise BadMessage(f"{leased.request.request_id}: of its first {blocks} blocks some have not come")

    def hold(self, lease: Lease, state: RequestState) -> None:
        leased: Leased = lease.native
        request = leased.request
        if tuple(request.output_token_ids) != state.output:
            raise Refused("its output here is another one", client_fault=False)
        if not 0 < state.computed_tokens < request.num_tokens:
            raise BadMessage(f"{state.computed_tokens} of {request.num_tokens} tokens computed")
        self._check_whole(leased, -(-state.computed_tokens // self.block_size))
        if not self._feed_grammar(leased):
            raise Refused("its grammar is not ready", client_fault=False)
        if not self.scheduler.promise_slot():
            raise NoRoom("no run slot")
        leased.state = state

    def adopt(self, lease: Lease, engine_id: str) -> None:
        leased: Leased = lease.native
        request, state = leased.request, leased.state
        if state is None or leased.over:
            raise NoRoom(f"{lease.lease_id} holds nothing to run")
        leased.over = True
        self.scheduler.promised -= 1
        self.scheduler.rename(request, engine_id)
        request.num_computed_tokens = state.computed_tokens
        self.cache.cache_blocks(request, state.computed_tokens)
        if state.output:
            self._as_preempted(request, state)
        self.core.add_request(request)
        if state.output:
            request.events.clear()  # it was queued once already, by its first engine

    def _as_preempted(self, request: Request, state: RequestState) -> None:
        """It has a past in some batch, so the runner must know it. One without output enters as new."""
        row = dict(
            req_id=request.request_id,
            prompt_token_ids=request.prompt_token_ids,
            sampling_params=request.sampling_params,
            output_token_ids=list(state.output),
            lora_request=request.lora_request,
        )
        self.core.collective_rpc("shoal_put_row", args=(row, state.engine))
        request.status = RequestStatus.PREEMPTED
        request.num_preemptions, request.prefill_stats = max(1, request.num_preemptions), None

    def drop(self, lease: Lease) -> None:
        leased: Leased = lease.native
        if leased.over:
            return
        leased.over = True
        self.scheduler.promised -= leased.state is not None
        self.cache.free(leased.request)


__all__ = ["VllmMover"]
