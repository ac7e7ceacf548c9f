"""The mover seam, beside `Engine` in seam.py: how a request is taken out of an engine as it runs, and put in another.

A block is sealed when a *finished* step filled it: from then on its bytes never change, so it may be copied while
decoding goes on, by any thread. Everything here runs on the step thread, between two steps, but `read` and `write`,
which any one thread per handle may call meanwhile. Every handle must be given back: a pin by `unpin`, a lease by `drop`
or `adopt`, a parked request by `unpark` or `release`. Nothing here waits.

Source:  look -> (pin -> read -> unpin)* -> park, take_state, pin_tail -> read -> unpin -> release | unpark
Target:  lease -> (grow, write -> seal)* -> write -> grow, hold -> adopt | drop
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from shoal.instance.seam import Prepared


class Phase(Enum):
    """Where an engine has a request. MOVING: parked."""

    WAITING = "waiting"
    RUNNING = "running"
    MOVING = "moving"


class Gone(Exception):
    """It is not here any more: finished, aborted, or never was."""


class NoRoom(Exception):
    """The target has no free block or no run slot for it."""


@dataclass(frozen=True, slots=True)
class Sight:
    """One request as its engine sees it. `sealed_blocks` of a running one; `unmovable` is the reason, or empty.

    `blocks`: held; of a waiting request: that it needs.
    """

    engine_id: str
    phase: Phase
    priority: int
    prompt_tokens: int
    output_tokens: int
    computed_tokens: int
    sealed_blocks: int
    blocks: int
    max_new_tokens: int
    lora: str = ""
    unmovable: str = ""

    @property
    def computes_prompt(self) -> bool:
        """Its first token is still to come, or the next one after a fail-over."""
        return not self.output_tokens or self.prompt_tokens + self.output_tokens - self.computed_tokens > 1


@dataclass(slots=True)
class Pin:
    """Blocks `first..` of a request, held in place while they are read. A tail pin has one block and no hash."""

    first: int
    hashes: tuple[bytes, ...]
    blocks: int
    native: Any


@dataclass(frozen=True, slots=True)
class RequestState:
    """What a parked request is, besides its blocks and its submission. `engine` is the engine's own (generators)."""

    output: tuple[int, ...]
    computed_tokens: int
    engine: bytes = b""


@dataclass(slots=True)
class Lease:
    """Blocks of the target, held for a request that is on its way. `missing`: positions whose bytes it lacks."""

    lease_id: str
    missing: tuple[int, ...]
    native: Any


class Mover(Protocol):
    block_bytes: int
    """Of one KV block over all layers and ranks: the size of one block in `read` and `write`."""
    fingerprint: bytes
    """Equal for two engines that may exchange blocks: model, weights, dtype, layout, block size, ranks, versions."""

    def residents(self) -> list[Sight]:
        """All requests, cheap enough for every 100 ms."""

    # -- source

    def look(self, engine_id: str) -> Sight:
        """Raises Gone."""

    def pin(self, engine_id: str, first: int, limit: int) -> Pin:
        """At most `limit` sealed blocks from position `first` on; maybe none. Raises Gone."""

    def read(self, pin: Pin, positions: Sequence[int], into: memoryview) -> None:
        """Bytes of those blocks (positions of the request), one after the other. Any thread."""

    def unpin(self, pin: Pin) -> None: ...

    def park(self, engine_id: str) -> bool:
        """Out of the batch, blocks and slot kept. False: its tokens are in flight, ask after the next step. A waiting
        request leaves the queue. Raises Gone."""

    def take_state(self, engine_id: str) -> RequestState:
        """Of a parked request."""

    def pin_tail(self, engine_id: str, first: int) -> Pin:
        """Of a parked request: all blocks from `first` on that hold computed tokens, the unsealed last one included."""

    def unpark(self, engine_id: str) -> None:
        """Undo: it goes on as if nothing had been. Ignored for one that is gone."""

    def release(self, engine_id: str) -> None:
        """It lives elsewhere now. Its blocks stay cached, evictable. No output is emitted. Ignored if gone."""

    # -- target

    def lease(self, prepared: Prepared, hashes: Sequence[bytes]) -> Lease:
        """Room for a request that is on its way, its first len(hashes) blocks and one more. Raises NoRoom, Refused."""

    def grow(self, lease: Lease, output: Sequence[int]) -> None:
        """It made these tokens meanwhile. Raises NoRoom; the lease is still to be dropped then."""

    def write(self, lease: Lease, positions: Sequence[int], data: memoryview) -> None:
        """Any thread. Positions named at `lease`, those that the tokens known so far reach, and one more."""

    def seal(self, lease: Lease, blocks: int) -> None:
        """The first `blocks` blocks are complete: they enter the prefix cache."""

    def hold(self, lease: Lease, state: RequestState) -> None:
        """All is here, and there is a run slot for it. Raises NoRoom, Refused. It does not run yet."""

    def adopt(self, lease: Lease, engine_id: str) -> None:
        """Run it under this id. The lease is over."""

    def drop(self, lease: Lease) -> None:
        """It will not come. What was sealed stays cached. Ignored for one that is over."""


__all__ = ["Gone", "Lease", "Mover", "NoRoom", "Phase", "Pin", "RequestState", "Sight"]
