"""Outputs of the engine to replies of the wire: token indexes, logprobs, usage. Pure.

vLLM's outputs are deltas: their tokens and text follow each other without gaps, choice by choice, however they are
bundled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from shoal.cluster.grpc_api.ports import Completion, Output
from shoal.cluster.grpc_api.resume import ResumeCut
from shoal.proto.v1 import inference_pb2 as pb


class Replies:
    """Sole owner of the token counts of one stream. With a `cut` it goes on in the middle of choice 0."""

    def __init__(self, request_id: str, cut: ResumeCut | None = None, next_index: int = 0) -> None:
        self._request_id = request_id
        self._cut = cut
        self._sent = Counter({0: next_index})
        self._prompt_logprobs_due = next_index == 0

    def of(self, output: Output, instance: str) -> Iterator[pb.GenerateReply]:
        prompt_logprobs = output.prompt_logprobs if self._prompt_logprobs_due else None
        for completion in output.outputs:
            reply = self._reply(completion)
            if reply is None:
                continue
            reply.instance = instance
            if prompt_logprobs:
                reply.prompt_logprobs.extend(logprobs_of(prompt_logprobs))
                prompt_logprobs, self._prompt_logprobs_due = None, False
            if completion.finish_reason is not None:
                reply.usage.CopyFrom(self._usage(output, completion.index))
            yield reply

    def _reply(self, completion: Completion) -> pb.GenerateReply | None:
        token_ids, text = list(completion.token_ids), completion.text
        if self._cut is not None:
            part = self._cut.cut(token_ids, text, completion.finish_reason)
            if part is None:
                return None
            token_ids, text = part
        reply = pb.GenerateReply(
            request_id=self._request_id,
            choice=completion.index,
            index=self._sent[completion.index],
            token_ids=token_ids,
            text=text,
            finish_reason=completion.finish_reason or "",
            stop_reason="" if completion.stop_reason is None else str(completion.stop_reason),
        )
        if completion.logprobs and token_ids:
            reply.logprobs.extend(logprobs_of(completion.logprobs[-len(token_ids) :]))
        self._sent[completion.index] += len(token_ids)
        return reply

    def _usage(self, output: Output, choice: int) -> pb.Usage:
        return pb.Usage(
            prompt_tokens=len(output.prompt_token_ids or ()),
            output_tokens=self._sent[choice],
            cached_tokens=output.num_cached_tokens or 0,
        )


def logprobs_of(positions: Sequence[Mapping[int, Any] | None]) -> Iterator[pb.TokenLogprobs]:
    """One per position; the first prompt position has none. vLLM puts the sampled (or prompt) token first."""
    for position in positions:
        yield pb.TokenLogprobs(
            top=(
                pb.TokenLogprob(token_id=i, logprob=one.logprob, rank=one.rank or 0, text=one.decoded_token or "")
                for i, one in (position or {}).items()
            )
        )


__all__ = ["Replies", "logprobs_of"]
