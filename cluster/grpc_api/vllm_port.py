"""The engine port over vLLM's AsyncLLM: the one file of the gRPC API that imports vLLM.

vLLM judges what we cannot; its complaints about a request become InvalidArgument here, so that no vLLM exception goes
further up than this file except as a bug.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Any

from vllm import SamplingParams
from vllm import __version__ as vllm_version
from vllm.exceptions import VLLMClientError
from vllm.renderers.inputs.preprocess import parse_model_prompt
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.detokenizer import BaseIncrementalDetokenizer, IncrementalDetokenizer
from vllm.v1.engine.exceptions import EngineGenerateError

from shoal.cluster.grpc_api.ports import Output, Prompt
from shoal.cluster.grpc_api.sampling import EngineFacts, Sampling, short
from shoal.proto.errors import InvalidArgument, ShoalError


class VllmEngine:
    """See EnginePort."""

    def __init__(self, llm: AsyncLLM) -> None:
        self._llm = llm

    def facts(self) -> EngineFacts:
        model = self._llm.model_config
        vocabulary = model.get_vocab_size()
        return EngineFacts(
            max_model_len=model.max_model_len,
            vocabulary=vocabulary,
            max_logprobs=vocabulary if model.max_logprobs == -1 else model.max_logprobs,
            vllm_version=vllm_version,
        )

    async def render(self, prompt: str | Sequence[int]) -> Prompt:
        native = {"prompt": prompt} if isinstance(prompt, str) else {"prompt_token_ids": list(prompt)}
        parsed = parse_model_prompt(self._llm.model_config, native)
        try:
            (rendered,) = await self._llm.renderer.render_cmpl_async([parsed])
        except VLLMClientError as exc:
            limit = f"1 to {self._llm.model_config.max_model_len - 1} tokens"
            raise InvalidArgument("prompt", limit=limit, given=_size(prompt)) from exc
        return Prompt(len(rendered["prompt_token_ids"]), rendered)

    async def generate(
        self, prompt: Prompt, sampling: Sampling, engine_id: str, adapter: Any, priority: int
    ) -> AsyncGenerator[Output, None]:
        with complaints_of_vllm():
            params = sampling_params(sampling)
            outputs = self._llm.generate(prompt.native, params, engine_id, lora_request=adapter, priority=priority)
            async with aclosing(outputs):
                async for output in outputs:
                    yield output

    async def replay(self, adopted: EngineCoreRequest, engine_id: str) -> AsyncGenerator[Output, None]:
        # vLLM names it anew: its internal id is unique in this frontend only, and it refuses a set external one.
        adopted.request_id, adopted.external_req_id = engine_id, None
        with complaints_of_vllm():
            outputs = self._llm.generate(adopted, adopted.sampling_params, engine_id)
            async with aclosing(outputs):
                async for output in outputs:
                    yield output

    def released_chars(self, adopted: EngineCoreRequest) -> Callable[[Sequence[int]], int]:
        def count(token_ids: Sequence[int]) -> int:
            detokenizer = IncrementalDetokenizer.from_new_request(self._llm.tokenizer, adopted)
            detokenizer.update(list(token_ids), stop_terminated=False)
            if not isinstance(detokenizer, BaseIncrementalDetokenizer):
                return 0  # this request has no text
            return max(0, len(detokenizer.output_text) - detokenizer.stop_buffer_length)

        return count

    async def abort(self, engine_id: str) -> None:
        await self._llm.abort(engine_id)


def sampling_params(sampling: Sampling) -> SamplingParams:
    """Logprobs stay a list of dicts: vLLM's flat form repeats a sampled token that is among the top ones."""
    structured = sampling.structured and StructuredOutputsParams(**sampling.structured)
    return SamplingParams(**sampling.fields, structured_outputs=structured, output_kind=RequestOutputKind.DELTA)


@contextmanager
def complaints_of_vllm() -> Iterator[None]:
    """vLLM's own checks as ours; and what it wrapped on its way up, unwrapped."""
    try:
        yield
    except VLLMClientError as exc:
        field = getattr(exc, "parameter", None) or "sampling"
        given = getattr(exc, "value", None)
        words = exc.args[0] if exc.args else str(exc)
        raise InvalidArgument(field, limit=f"as vLLM asks ({words})"[:500], given=short(given)) from exc
    except EngineGenerateError as exc:
        if isinstance(exc.__cause__, ShoalError):
            raise exc.__cause__ from exc
        raise


def _size(prompt: str | Sequence[int]) -> str:
    return f"{len(prompt)} {'characters' if isinstance(prompt, str) else 'tokens'}"


__all__ = ["VllmEngine", "complaints_of_vllm", "sampling_params"]
