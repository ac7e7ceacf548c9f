"""What the gRPC API asks of the engine behind it and of the cluster, so that it is served and tested without vLLM.

`VllmEngine` of vllm_port.py is the engine; the engine client is the cluster.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from shoal.cluster.grpc_api.sampling import EngineFacts, Sampling
from shoal.proto.errors import NotFound

Authenticate = Callable[[str | None], str]
"""The value of the `authorization` header, or None, to a tenant. Raises Unauthenticated."""


class Completion(Protocol):
    """vLLM's CompletionOutput of kind DELTA."""

    index: int
    text: str
    token_ids: Sequence[int]
    logprobs: Any
    finish_reason: str | None
    stop_reason: int | str | None


class Output(Protocol):
    """vLLM's RequestOutput of kind DELTA. Outputs that nobody took in time arrive as one."""

    prompt_token_ids: Sequence[int] | None
    prompt_logprobs: Any
    outputs: Sequence[Any]
    finished: bool
    num_cached_tokens: int | None


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as tokens; `native` is what the engine port wants back."""

    token_count: int
    native: Any


class EnginePort(Protocol):
    def facts(self) -> EngineFacts: ...

    async def render(self, prompt: str | Sequence[int]) -> Prompt:
        """Raises InvalidArgument."""

    def generate(
        self, prompt: Prompt, sampling: Sampling, engine_id: str, adapter: Any, priority: int
    ) -> AsyncGenerator[Output, None]:
        """Raises InvalidArgument for what only the engine can judge. Closing the generator aborts the request."""

    def replay(self, adopted: Any, engine_id: str) -> AsyncGenerator[Output, None]:
        """The output of an adopted EngineCoreRequest from index 0 on."""

    def released_chars(self, adopted: Any) -> Callable[[Sequence[int]], int]:
        """How many characters a client has that has got exactly these first tokens and no end."""

    async def abort(self, engine_id: str) -> None:
        """Unknown ids are ignored."""


class ClusterPort(Protocol):
    async def adopt(self, resume_key: str, tenant: str) -> tuple[Any, bytes] | None:
        """The EngineCoreRequest and resume_context of a request whose frontend died, now ours; None if nobody has it.

        The next request that is added under this resume_key (see RequestContext) replays its output from index 0.
        """

    def instances_ready(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Models:
    """The base model's name and the adapters loaded now: name -> vLLM's LoRARequest."""

    base: str
    adapters: Callable[[], Mapping[str, Any]] = dict

    def resolve(self, name: str) -> Any | None:
        """The adapter, or None for the base model ("" too)."""
        if name in ("", self.base):
            return None
        adapter = self.adapters().get(name)
        if adapter is None:
            raise NotFound(f"model: must be one of {[self.base, *self.adapters()]}, given {name[:100]!r}")
        return adapter


__all__ = ["Authenticate", "ClusterPort", "Completion", "EnginePort", "Models", "Output", "Prompt"]
