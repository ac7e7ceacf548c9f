"""Drives a VllmEngine step by step for tests. Imports vLLM: only fixtures of tests marked `vllm` may import this."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from shoal.instance.engine_factory import build_engine
from shoal.instance.seam import Prepared, Submission
from shoal.instance.vllm_engine import VllmEngine
from shoal.instance.vllm_seam import (
    EngineCoreRequest,
    LoRARequest,
    MsgpackEncoder,
    SamplingParams,
    StructuredOutputsParams,
)
from shoal.proto.codec import INLINE_BYTES
from shoal.proto.config import parse_config
from tests.instance.sampling_kinds import KINDS, SCHEMA

WAIT_S = 120.0
SIZES = {
    "max_model_len": 4096,
    "max_num_batched_tokens": 256,
    "dtype": "float32",
    "kv_cache_bytes": 1 << 28,
    "block_size": 32,
}


@dataclass(slots=True)
class Heard:
    """What the engine said of one request."""

    tokens: list[int] = field(default_factory=list)
    finish: int | None = None
    stop: int | str | None = None
    logprob_ids: list[list[int]] = field(default_factory=list)
    logprobs: list[list[float]] = field(default_factory=list)

    def end(self) -> tuple[int | None, int | str | None]:
        return self.finish, self.stop


class Drive:
    """One engine, and all that it said so far by request id."""

    def __init__(self, *, pool: bool = False, **sizes: Any) -> None:
        config = {"engine": {**SIZES, **sizes}, "pool": {"memory_bytes": int(pool)}}
        self.engine: VllmEngine = build_engine(parse_config(config))  # type: ignore[assignment]
        self.engine.warm_up()
        self.encoder = MsgpackEncoder(INLINE_BYTES)
        self.numbers = itertools.count()
        self.heard: dict[str, Heard] = {}
        self.steps = 0

    @staticmethod
    def json_schema(schema: str) -> StructuredOutputsParams:
        params = StructuredOutputsParams(json=schema)
        params._backend = "xgrammar"  # as the frontend's input processor sets it
        return params

    def wire(self, prompt: Any, *, changes: dict[str, Any] | None = None, **sampling: Any) -> bytes:
        """`sampling` goes through vLLM's checks, `changes` past them: to fields of the request, or of its parameters
        ("params.logprobs").
        """
        request = EngineCoreRequest("r", prompt, None, SamplingParams(**sampling), None, 0.0, None, None, None)
        for name, value in (changes or {}).items():
            owner, _, leaf = name.rpartition(".")
            setattr(request.sampling_params if owner == "params" else request, leaf, value)
        return bytes(self.encoder.encode(request)[0])

    def wire_of_kind(self, kind: str, prompt: list[int], **more: Any) -> bytes:
        grammar = {"structured_outputs": self.json_schema(SCHEMA)} if kind == "json" else {}
        return self.wire(prompt, **{"ignore_eos": True, **KINDS[kind], **grammar, **more})

    @staticmethod
    def lora(name: str, number: int) -> LoRARequest:
        return LoRARequest(lora_name=name, lora_int_id=number, lora_path=f"/adapters/{name}")

    def prepare(self, wire: bytes, delivered: Sequence[int] = ()) -> Prepared:
        return self.engine.prepare(Submission(f"r{next(self.numbers)}", 1, wire, tuple(delivered)))

    def start(self, wire: bytes, delivered: Sequence[int] = ()) -> str:
        """Returns the engine's id of it."""
        prepared = self.prepare(wire, delivered)
        self.heard[prepared.engine_id] = Heard(list(delivered))
        self.add(prepared)
        return prepared.engine_id

    def add(self, prepared: Prepared) -> None:
        end_s = time.monotonic() + WAIT_S
        while not self.engine.ready(prepared):
            assert time.monotonic() < end_s, "its grammar never became ready"
            time.sleep(0.002)
        self.engine.add(prepared)

    def step(self) -> None:
        self.steps += 1
        result = self.engine.step()
        for output in result.outputs:
            heard = self.heard[output.request_id]
            heard.tokens += output.new_token_ids
            if output.new_logprobs is not None:
                heard.logprob_ids += output.new_logprobs.logprob_token_ids.tolist()
                heard.logprobs += output.new_logprobs.logprobs.tolist()
            if output.finish_reason is not None:
                heard.finish, heard.stop = int(output.finish_reason), output.stop_reason
        if not result.executed:
            time.sleep(0.001)

    def step_until(self, engine_id: str, tokens: int) -> None:
        while len(self.heard[engine_id].tokens) < tokens:
            assert self.engine.has_work()
            self.step()

    def finish(self, *engine_ids: str) -> list[Heard]:
        end_s = time.monotonic() + WAIT_S
        while self.engine.has_work():
            assert time.monotonic() < end_s, "the engine does not come to an end"
            self.step()
        return [self.heard[engine_id] for engine_id in engine_ids]

    def run(self, wire: bytes, delivered: Sequence[int] = ()) -> Heard:
        return self.finish(self.start(wire, delivered))[0]

    def all_free(self) -> bool:
        load = self.engine.load()
        empty = (load.running, load.waiting, load.queued_prefill_tokens, load.uncached_prefill_tokens)
        return load.free_blocks == load.total_blocks and empty == (0, 0, 0, 0)
