"""The engine seam: what an instance asks of an engine, be it vLLM or the fake one.

Everything but `prepare` and `encode` runs on the one step thread. `prepare` may run on one other thread meanwhile: it
does what takes time (hashing the prompt, starting a grammar) and nothing that the step thread could see half done. An
engine-level request id is `request_id@epoch`, so that a new owner's request never meets a former one's remains.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Fixed facts of a started engine. `hash_seed` is the root of the block-hash chain in hex."""

    model: str
    vllm_version: str
    block_size: int
    total_blocks: int
    max_model_len: int
    max_num_batched_tokens: int
    max_num_seqs: int
    hash_seed: str


@dataclass(frozen=True, slots=True)
class Submission:
    """A request to start, or to go on after `delivered` output tokens. `request` is msgpack of EngineCoreRequest."""

    request_id: str
    epoch: int
    request: bytes
    delivered: tuple[int, ...] = ()

    @property
    def engine_id(self) -> str:
        return f"{self.request_id}@{self.epoch}"


class Refused(Exception):
    """This engine cannot serve this request. `client_fault`: no engine could."""

    def __init__(self, reason: str, *, client_fault: bool) -> None:
        super().__init__(reason)
        self.client_fault = client_fault


@dataclass(slots=True)
class Prepared:
    """What `prepare` made of a submission; `native` is the engine's own."""

    engine_id: str
    native: Any


class BlockChange(NamedTuple):
    """kind: 'stored' | 'removed' | 'cleared' (everything)."""

    kind: str
    hashes: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """See Load in instance.proto; step time and draining are added by the instance."""

    running: int = 0
    waiting: int = 0
    queued_prefill_tokens: int = 0
    uncached_prefill_tokens: int = 0
    context_tokens: int = 0
    free_blocks: int = 0
    total_blocks: int = 0


@dataclass(slots=True)
class StepResult:
    """`outputs`: EngineCoreOutput or its twin WireOutput, with engine-level request ids.

    `executed` False: nothing ran (an asynchronous load is pending, say); the stepper then waits a moment.
    `tokens`: scheduled in it, of prompts and decodes.
    """

    outputs: list[Any] = field(default_factory=list)
    executed: bool = True
    preempted: int = 0
    tokens: int = 0


class Engine(Protocol):
    info: EngineInfo
    mover: Any
    """Its `Mover` (see mover.py), or None where nothing can be moved."""

    def prepare(self, submission: Submission) -> Prepared:
        """Raises Refused or BadMessage."""

    def ready(self, prepared: Prepared) -> bool:
        """May it be added now? False while its grammar still compiles and that must come first."""

    def add(self, prepared: Prepared) -> None: ...

    def abort(self, engine_ids: Iterable[str]) -> None:
        """Unknown ids are ignored. No output is emitted for an aborted request."""

    def has_work(self) -> bool: ...

    def step(self) -> StepResult: ...

    def load(self) -> EngineLoad: ...

    def take_block_changes(self) -> list[BlockChange]: ...

    def encode(self, outputs: list[Any]) -> bytes:
        """EngineCoreOutputs of these outputs, in msgpack. Called from one thread only, not the step thread."""

    def call(self, method: str, arguments: dict[str, Any]) -> Any:
        """add_lora | remove_lora | list_loras | pin_lora | reset_prefix_cache. Raises Refused."""

    def warm_up(self) -> None:
        """Pay first-use stalls before any client does."""

    def shutdown(self) -> None: ...


__all__ = ["BlockChange", "Engine", "EngineInfo", "EngineLoad", "Prepared", "Refused", "StepResult", "Submission"]
