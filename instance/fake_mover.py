"""The mover of the fake engine: the step model's blocks with stand-in bytes.

The bytes of a block follow from its hash, those of an unsealed one from its tokens; whatever is written is compared
with what it must be. So a block at the wrong place, of another request, or damaged on the way is noticed, not served.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b, shake_128
from typing import cast

from shoal.instance.fake_request import FakeRequest
from shoal.instance.model_cache import Holding
from shoal.instance.model_request import ModelRequest, State
from shoal.instance.mover import Gone, Lease, NoRoom, Phase, Pin, RequestState, Sight
from shoal.instance.seam import EngineInfo, Prepared, Refused
from shoal.instance.step_model import StepModel
from shoal.proto.config import FakeEngineConfig
from shoal.proto.errors import BadMessage

PHASES = {State.WAITING: Phase.WAITING, State.RUNNING: Phase.RUNNING, State.PARKED: Phase.MOVING}


@dataclass(slots=True)
class PinnedModel:
    """`contents`: what each block's bytes follow from."""

    holding: Holding
    contents: list[bytes]


@dataclass(slots=True)
class LeasedModel:
    """`whole`: leading blocks known to be right. `written`: what came and was not looked at yet, by position."""

    request: FakeRequest
    model: ModelRequest
    whole: int
    written: dict[int, bytes] = field(default_factory=dict)
    over: bool = False


def sight_of(model: ModelRequest, block_size: int) -> Sight:
    return Sight(
        engine_id=model.request_id,
        phase=PHASES[model.state],
        priority=model.priority,
        prompt_tokens=model.prompt_tokens,
        output_tokens=model.output_tokens,
        computed_tokens=model.computed,
        sealed_blocks=model.computed // block_size,
        blocks=model.holding.blocks or -(-model.tokens // block_size),
        max_new_tokens=model.limit_tokens - model.prompt_tokens,
    )


class FakeMover:
    """See `Mover` in mover.py. Shares the fake engine's model and requests, on the same thread."""

    def __init__(
        self, info: EngineInfo, fake: FakeEngineConfig, model: StepModel, requests: dict[str, FakeRequest]
    ) -> None:
        self.block_bytes = fake.block_bytes
        same = (info.model, info.vllm_version, info.block_size, info.hash_seed, fake.vocabulary, fake.block_bytes)
        self.fingerprint = blake2b(repr(same).encode(), digest_size=16).digest()
        self._block_size, self._model, self._requests = info.block_size, model, requests

    def residents(self) -> list[Sight]:
        size, held = self._block_size, self._requests.values()
        return [sight_of(request.model, size) for request in held if request.model]

    # -- source

    def look(self, engine_id: str) -> Sight:
        return sight_of(self._find(engine_id)[1], self._block_size)

    def _find(self, engine_id: str) -> tuple[FakeRequest, ModelRequest]:
        request = self._requests.get(engine_id)
        if request is None or request.model is None:
            raise Gone(engine_id)
        return request, request.model

    def pin(self, engine_id: str, first: int, limit: int) -> Pin:
        _request, model = self._find(engine_id)
        sealed = model.computed // self._block_size
        keys = self._keys(model, sealed)[first : first + limit]
        return Pin(first, tuple(keys), len(keys), PinnedModel(self._model.guests.pin(keys), keys))

    def _keys(self, model: ModelRequest, blocks: int) -> list[bytes]:
        return cast("list[bytes]", list(model.keys.first(blocks)[:blocks]))

    def read(self, pin: Pin, positions: Sequence[int], into: memoryview) -> None:
        for number, position in enumerate(positions):
            start = number * self.block_bytes
            into[start : start + self.block_bytes] = self._content(pin.native.contents[position - pin.first])

    def _content(self, of: bytes) -> bytes:
        return shake_128(of).digest(self.block_bytes)

    def unpin(self, pin: Pin) -> None:
        self._model.guests.unpin(pin.native.holding)

    def park(self, engine_id: str) -> bool:
        self._model.park(self._find(engine_id)[1])
        return True

    def take_state(self, engine_id: str) -> RequestState:
        request, model = self._find(engine_id)
        return RequestState(tuple(request.tokens[model.prompt_tokens :]), model.computed)

    def pin_tail(self, engine_id: str, first: int) -> Pin:
        request, model = self._find(engine_id)
        contents = self._contents(request, model, first, model.computed)
        return Pin(first, (), len(contents), PinnedModel(self._model.guests.pin(()), contents))

    def _contents(self, request: FakeRequest, model: ModelRequest, first: int, computed: int) -> list[bytes]:
        """Of blocks `first`.. that hold the first `computed` tokens, the last perhaps in part."""
        sealed, rest = divmod(computed, self._block_size)
        contents = self._keys(model, sealed)[first:]
        if rest:
            contents.append(repr(request.tokens[computed - rest : computed]).encode())
        return contents

    def unpark(self, engine_id: str) -> None:
        request = self._requests.get(engine_id)
        if request is not None and request.model is not None and request.model.state is State.PARKED:
            self._model.unpark(request.model)

    def release(self, engine_id: str) -> None:
        request = self._requests.pop(engine_id, None)
        if request is not None and request.model is not None:
            self._model.remove(request.model)

    # -- target

    def lease(self, prepared: Prepared, hashes: Sequence[bytes]) -> Lease:
        request: FakeRequest = prepared.native
        model = request.model
        if model is None:
            raise Refused("its output is whole already", client_fault=False)
        if self._keys(model, len(hashes)) != list(hashes):
            raise Refused("its blocks have other names here", client_fault=False)
        hit = self._model.lease(model, (len(hashes) + 1) * self._block_size)
        if hit is None:
            raise NoRoom(f"{len(hashes) + 1} blocks")
        whole = min(hit // self._block_size, len(hashes))
        return Lease(prepared.engine_id, tuple(range(whole, len(hashes))), LeasedModel(request, model, whole))

    def grow(self, lease: Lease, output: Sequence[int]) -> None:
        leased: LeasedModel = lease.native
        leased.request.tokens.extend(output)
        leased.model.tokens += len(output)
        if not self._model.guests.grow(leased.model, leased.model.tokens):
            raise NoRoom(f"{leased.model.tokens} tokens")

    def write(self, lease: Lease, positions: Sequence[int], data: memoryview) -> None:
        leased: LeasedModel = lease.native
        for number, position in enumerate(positions):
            leased.written[position] = bytes(data[number * self.block_bytes : (number + 1) * self.block_bytes])

    def seal(self, lease: Lease, blocks: int) -> None:
        leased: LeasedModel = lease.native
        self._check(leased, self._keys(leased.model, blocks))
        self._model.guests.seal(leased.model, blocks * self._block_size)

    def _check(self, leased: LeasedModel, contents: Sequence[bytes]) -> None:
        for position in range(leased.whole, len(contents)):
            if leased.written.pop(position, None) != self._content(contents[position]):
                raise BadMessage(f"{leased.request.engine_id}: block {position} is missing or holds other bytes")
        leased.whole = max(leased.whole, len(contents))

    def hold(self, lease: Lease, state: RequestState) -> None:
        leased: LeasedModel = lease.native
        request, model = leased.request, leased.model
        if request.tokens[model.prompt_tokens :] != list(state.output):
            raise Refused("its output here is another one", client_fault=False)
        self._check(leased, self._contents(request, model, 0, state.computed_tokens))
        if leased.written:
            raise BadMessage(f"{request.engine_id}: blocks {sorted(leased.written)} came, nobody needs them")
        if not self._model.hold(model, state.computed_tokens):
            raise NoRoom("no run slot")

    def adopt(self, lease: Lease, engine_id: str) -> None:
        leased: LeasedModel = lease.native
        lease.lease_id, leased.over = engine_id, True
        leased.request.engine_id = leased.model.request_id = engine_id
        self._requests[engine_id] = leased.request
        self._model.unpark(leased.model)

    def drop(self, lease: Lease) -> None:
        leased: LeasedModel = lease.native
        if not leased.over:
            leased.over = True
            self._model.remove(leased.model)


__all__ = ["FakeMover", "sight_of"]
