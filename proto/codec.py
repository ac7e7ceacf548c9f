"""The one codec for the msgpack inside our frames, and its typed twins of vLLM's wire structs.

vLLM's EngineCoreRequest, EngineCoreOutput and EngineCoreOutputs are positional msgspec structs. Processes that must not
import vLLM (fake engine, controller, tests) read and write them through the twins below: the same positions, fewer
names. A test compares the positions with the installed vLLM. Nothing here unpickles anything, ever.
"""

from typing import Any, TypeVar

import msgspec

from shoal.proto.errors import BadMessage

T = TypeVar("T")

INLINE_BYTES = 1 << 30  # vLLM keeps arrays inside the one message: a gRPC message has no side frames
FINISH_STOP, FINISH_LENGTH, FINISH_ABORT, FINISH_ERROR, FINISH_REPETITION = range(5)


class WireRequest(msgspec.Struct, array_like=True, omit_defaults=True):
    """The head of EngineCoreRequest; later positions are ignored on reading."""

    request_id: str
    prompt_token_ids: list[int] | None
    mm_features: Any
    sampling_params: dict[str, Any] | None
    pooling_params: Any
    arrival_time: float
    lora_request: Any
    cache_salt: str | None
    data_parallel_rank: int | None = None
    prompt_embeds: Any = None
    prompt_is_token_ids: Any = None
    client_index: int = 0
    current_wave: int = 0
    priority: int = 0


class WireOutput(msgspec.Struct, array_like=True, omit_defaults=True):
    """The head of EngineCoreOutput."""

    request_id: str
    new_token_ids: list[int]
    new_logprobs: Any = None
    new_prompt_logprobs_tensors: Any = None
    pooling_output: Any = None
    finish_reason: int | None = None
    stop_reason: int | str | None = None


class WireOutputs(msgspec.Struct, array_like=True, omit_defaults=True):
    """The head of EngineCoreOutputs."""

    engine_index: int = 0
    outputs: list[WireOutput] = []
    scheduler_stats: Any = None
    timestamp: float = 0.0


def decode(kind: type[T], data: bytes) -> T:
    """One typed message out of untrusted bytes, or BadMessage: nothing else is raised whatever the bytes."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise BadMessage(f"{kind.__name__}: {type(exc).__name__}: {exc}"[:200]) from None


encode = msgspec.msgpack.Encoder().encode

__all__ = [
    "FINISH_ABORT",
    "FINISH_ERROR",
    "FINISH_LENGTH",
    "FINISH_REPETITION",
    "FINISH_STOP",
    "INLINE_BYTES",
    "WireOutput",
    "WireOutputs",
    "WireRequest",
    "decode",
    "encode",
]
