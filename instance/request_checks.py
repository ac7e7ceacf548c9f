"""What would end a vLLM engine, or leave it with a request that it never finishes, is found here and refused. Pure.

A frontend's input processor lets none of this through; an engine does not rely on it, because each of these was seen to
end the stock engine, and all its requests with it. `wire` is an EngineCoreRequest.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from shoal.instance.seam import Refused


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Of one engine. `loras`: adapter id -> name of what is loaded, kept up to date by the engine. `verify`: vLLM's own
    checks of sampling parameters, raising its own errors.
    """

    vocabulary: int
    max_model_len: int
    block_size: int
    total_blocks: int
    loras: Mapping[int, str]
    verify: Callable[[Any], None]

    def check(self, wire: Any, delivered: tuple[int, ...]) -> None:
        """Raises Refused."""
        self._check_kind(wire)
        self._check_room(wire.prompt_token_ids, wire.sampling_params.max_tokens, delivered)
        self._check_ids(wire.prompt_token_ids, delivered, wire.sampling_params)
        self._check_lora(wire.lora_request)
        try:
            self.verify(wire.sampling_params)
        except Exception as exc:
            raise Refused(str(exc), client_fault=True) from exc

    def _check_kind(self, wire: Any) -> None:
        if wire.sampling_params is None or wire.pooling_params is not None or wire.mm_features:
            raise Refused("only text generation is served", client_fault=True)
        if wire.prompt_embeds is not None or wire.prompt_is_token_ids is not None:
            raise Refused("prompt: must be token ids, not embeddings", client_fault=True)
        if wire.resumable or wire.abort_immediately:
            raise Refused("only whole requests are served: no streamed input, no abort on arrival", client_fault=False)

    def _check_room(self, prompt: list[int] | None, max_tokens: int | None, delivered: tuple[int, ...]) -> None:
        if not prompt:
            raise Refused("prompt: must hold at least one token", client_fault=True)
        if len(prompt) >= self.max_model_len:
            raise Refused(f"prompt: must be under {self.max_model_len} tokens, given {len(prompt)}", client_fault=True)
        if max_tokens is None or len(delivered) >= max_tokens:
            raise Refused(f"max_tokens: {max_tokens} with {len(delivered)} delivered", client_fault=False)
        context = len(prompt) + len(delivered)
        if context >= self.max_model_len:
            raise Refused(
                f"prompt and output: must be under {self.max_model_len} tokens, given {context}", client_fault=False
            )
        if -(-(context + 1) // self.block_size) > self.total_blocks:
            reason = f"prompt: {context} tokens do not fit this instance's {self.total_blocks} blocks"
            raise Refused(reason, client_fault=True)

    def _check_ids(self, prompt: Collection[int], delivered: Collection[int], params: Any) -> None:
        """`verify` checks the public lists of token ids; these it takes for granted. Stop ids are indexes only where
        min_tokens forbids them.
        """
        self._in_vocabulary("prompt", prompt, client_fault=True)
        self._in_vocabulary("delivered", delivered, client_fault=False)
        if params.min_tokens:
            self._in_vocabulary("stop_token_ids", params.all_stop_token_ids, client_fault=True)
        if not all(params.bad_words_token_ids or ()):
            raise Refused("bad_words: none may be empty", client_fault=True)

    def _in_vocabulary(self, field: str, tokens: Collection[int], *, client_fault: bool) -> None:
        if tokens and (min(tokens) < 0 or max(tokens) >= self.vocabulary):
            raise Refused(f"{field}: token ids must be in 0..{self.vocabulary - 1}", client_fault=client_fault)

    def _check_lora(self, lora: Any) -> None:
        if lora is not None and self.loras.get(lora.lora_int_id) != lora.lora_name:
            raise Refused(f"adapter {lora.lora_name} is not loaded here", client_fault=False)


__all__ = ["RequestLimits"]
