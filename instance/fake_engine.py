"""The fake engine: the step model with a clock, behind the engine seam, for speed, fault and scale tests without vLLM.

It sleeps each step's modelled time (the GIL is free meanwhile), speaks the same bytes as vLLM, counts and caches blocks
like it, and says what `fake_tokens` says. A prompt with the poison token ends the process when a step schedules it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, cast

import msgspec

from shoal.instance.block_keys import HASH_SEED, TokenKeys
from shoal.instance.fake_mover import FakeMover
from shoal.instance.fake_request import End, FakeRequest
from shoal.instance.fake_tokens import FakeSampling, prompt_digest, token_at
from shoal.instance.model_request import ModelRequest, State
from shoal.instance.seam import BlockChange, EngineInfo, EngineLoad, Prepared, Refused, StepResult, Submission
from shoal.instance.step_model import StepModel
from shoal.instance.step_plan import Outcome, Plan
from shoal.instance.step_time import LinearStepTime, StepTime
from shoal.proto import codec
from shoal.proto.codec import FINISH_LENGTH, WireOutput, WireOutputs, WireRequest
from shoal.proto.config import EngineConfig, FakeEngineConfig
from shoal.proto.errors import BadMessage, StartFailed

_DEFAULT_MAX_MODEL_LEN = 32_768
_TOKEN_LIMIT = 1 << 31


def _exit_at_once() -> NoReturn:
    os._exit(9)


class FakeEngine:
    """See `Engine` in seam.py. Owns its requests and its step model."""

    def __init__(
        self,
        config: EngineConfig,
        fake: FakeEngineConfig,
        *,
        model: str,
        vllm_version: str,
        step_time: StepTime | None = None,
        sleep_s: Callable[[float], None] = time.sleep,
        die: Callable[[], NoReturn] = _exit_at_once,
    ) -> None:
        self.info = _info(config, fake, model, vllm_version)
        self._fake = fake
        self._step_time = LinearStepTime.from_config(fake) if step_time is None else step_time
        self._sleep_s = sleep_s
        self._die = die
        self._requests: dict[str, FakeRequest] = {}
        self._ended: list[FakeRequest] = []
        self._model = StepModel(
            block_size=self.info.block_size,
            total_blocks=self.info.total_blocks,
            max_num_batched_tokens=self.info.max_num_batched_tokens,
            max_num_seqs=self.info.max_num_seqs,
            max_model_len=self.info.max_model_len,
        )
        self.mover = FakeMover(self.info, fake, self._model, self._requests)

    # -- requests

    def prepare(self, submission: Submission) -> Prepared:
        wire = codec.decode(WireRequest, submission.request)
        prompt = self._prompt(wire)
        request = FakeRequest(
            engine_id=submission.engine_id,
            tokens=[*prompt, *submission.delivered],
            digest=prompt_digest(prompt),
            sampling=_sampling(wire),
            poisoned=self._fake.poison_token in prompt,
        )
        max_new = self._max_new(request.sampling, len(prompt))
        request.ended = _end_on_arrival(request, len(submission.delivered), max_new)
        if request.ended is None:
            request.model = self._model_request(request, wire, len(prompt), max_new)
        return Prepared(request.engine_id, request)

    def _prompt(self, wire: WireRequest) -> list[int]:
        if wire.pooling_params is not None or wire.mm_features or wire.prompt_embeds is not None:
            raise Refused("the fake engine only generates, from token ids", client_fault=True)
        prompt = wire.prompt_token_ids
        if not prompt:
            raise Refused("prompt_token_ids: must hold a token, given none", client_fault=True)
        if not 0 <= min(prompt) <= max(prompt) < _TOKEN_LIMIT:
            raise Refused(f"prompt_token_ids: must be in 0..{_TOKEN_LIMIT - 1}", client_fault=True)
        limit = self.info.max_model_len
        if len(prompt) >= limit:
            raise Refused(f"prompt_token_ids: must be under {limit} tokens, given {len(prompt)}", client_fault=True)
        return prompt

    def _max_new(self, sampling: FakeSampling, prompt_tokens: int) -> int:
        room = self.info.max_model_len - prompt_tokens
        return room if sampling.max_tokens is None else min(room, sampling.max_tokens)

    def _model_request(self, request: FakeRequest, wire: WireRequest, prompt_tokens: int, max_new: int) -> ModelRequest:
        """Hashes the prompt, which takes time: here, off the step thread."""
        lora = wire.lora_request[0] if wire.lora_request else None
        keys = TokenKeys(request.tokens, self.info.block_size, salt=wire.cache_salt, lora=lora)
        keys.first(len(request.tokens) // self.info.block_size)
        return ModelRequest(
            request.engine_id,
            prompt_tokens=prompt_tokens,
            max_new=max_new,
            delivered=len(request.tokens) - prompt_tokens,
            priority=wire.priority,
            arrival_s=wire.arrival_time,
            keys=keys,
        )

    def ready(self, prepared: Prepared) -> bool:
        return True

    def add(self, prepared: Prepared) -> None:
        request: FakeRequest = prepared.native
        self.abort((request.engine_id,))  # the same id twice is a fault of the peer: the later one counts
        if request.model is None:
            self._ended.append(request)
        else:
            self._model.add(request.model)
        self._requests[request.engine_id] = request

    def abort(self, engine_ids: Iterable[str]) -> None:
        for engine_id in engine_ids:
            request = self._requests.pop(engine_id, None)
            if request is None:
                continue
            if request.model is None:
                self._ended.remove(request)
            else:
                self._model.remove(request.model)

    # -- steps

    def has_work(self) -> bool:
        return bool(self._ended) or self._model.has_work()

    def step(self) -> StepResult:
        plan = self._model.schedule()
        self._die_if_poisoned(plan)
        work = plan.work()
        if plan:
            self._sleep_s(self._step_time.step_ms(work) / 1000)
        result = StepResult(
            executed=bool(plan) or bool(self._ended),
            preempted=len(plan.preempted),
            tokens=work.prefill_tokens + work.decodes,
        )
        self._emit(self._model.complete(), result.outputs)
        self._emit_ended(result.outputs)
        return result

    def _die_if_poisoned(self, plan: Plan) -> None:
        if self._fake.poison_token is None or not plan:
            return
        scheduled = [*plan.decodes, *(chunk.request for chunk in plan.prefills)]
        if any(self._requests[request.request_id].poisoned for request in scheduled):
            self._die()

    def _emit(self, outcome: Outcome, outputs: list[Any]) -> None:
        for model in outcome.sampled:
            request = self._requests[model.request_id]
            index = model.output_tokens - 1
            token = token_at(request.digest, index, self._fake.vocabulary)
            request.tokens.append(token)
            output = WireOutput(model.request_id, [token])
            end = request.sampling.end(token, index + 1)
            if end is not None:
                output.finish_reason, output.stop_reason = end
            elif model.state is State.DONE:
                output.finish_reason = FINISH_LENGTH
            if output.finish_reason is not None:
                self._model.remove(model)
                del self._requests[model.request_id]
            outputs.append(output)

    def _emit_ended(self, outputs: list[Any]) -> None:
        """Those that were complete on arrival: their former owner died between their last token and its report."""
        for request in self._ended:
            del self._requests[request.engine_id]
            code, reason = request.ended or (FINISH_LENGTH, None)
            output = WireOutput(request.engine_id, [], finish_reason=code, stop_reason=reason)
            outputs.append(output)
        self._ended.clear()

    # -- reports

    def load(self) -> EngineLoad:
        return self._model.load()

    def take_block_changes(self) -> list[BlockChange]:
        changes = self._model.blocks.take_changes()
        return [BlockChange(change.value, cast("tuple[bytes, ...]", tuple(keys))) for change, keys in changes]

    def encode(self, outputs: list[Any]) -> bytes:
        return codec.encode(WireOutputs(outputs=outputs))

    def call(self, method: str, arguments: dict[str, Any]) -> Any:
        if method == "reset_prefix_cache":
            return self._model.blocks.reset()
        if method == "list_loras":
            return []
        raise Refused(f"{method}: the fake engine has no adapters", client_fault=True)

    def warm_up(self) -> None:
        """Nothing is slow the first time."""

    def shutdown(self) -> None:
        """Nothing is held outside this object."""

    def check(self) -> None:
        """Block conservation, for tests and the oracle."""
        self._model.check()


def _info(config: EngineConfig, fake: FakeEngineConfig, model: str, vllm_version: str) -> EngineInfo:
    room_tokens = fake.total_blocks * config.block_size
    if config.max_model_len is not None and config.max_model_len > room_tokens:
        raise StartFailed(
            f"engine.max_model_len: must be at most fake.total_blocks * engine.block_size = {room_tokens}, "
            f"given {config.max_model_len}"
        )
    return EngineInfo(
        model=model,
        vllm_version=vllm_version,
        block_size=config.block_size,
        total_blocks=fake.total_blocks,
        max_model_len=config.max_model_len or min(room_tokens, _DEFAULT_MAX_MODEL_LEN),
        max_num_batched_tokens=config.max_num_batched_tokens,
        max_num_seqs=config.max_num_seqs,
        hash_seed=HASH_SEED,
    )


def _sampling(wire: WireRequest) -> FakeSampling:
    try:
        sampling = msgspec.convert(wire.sampling_params or {}, FakeSampling)
    except msgspec.ValidationError as exc:
        raise BadMessage(f"sampling_params: {exc}") from None
    if sampling.max_tokens is not None and sampling.max_tokens < 1:
        raise Refused(f"max_tokens: must be at least 1, given {sampling.max_tokens}", client_fault=True)
    return sampling


def _end_on_arrival(request: FakeRequest, delivered: int, max_new: int) -> End | None:
    end = request.sampling.end(request.tokens[-1], delivered) if delivered else None
    if end is None and delivered >= max_new:
        return FINISH_LENGTH, None
    return end


__all__ = ["FakeEngine", "FakeRequest"]
