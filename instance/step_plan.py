"""What one step of the step model computes, and what came of it."""

from __future__ import annotations

from typing import NamedTuple

from shoal.instance.model_request import ModelRequest
from shoal.instance.step_time import StepWork


class Chunk(NamedTuple):
    """`tokens` of a prompt (or of a recomputation) after the `context` tokens that are computed already."""

    request: ModelRequest
    tokens: int
    context: int


class Plan:
    """What one step computes. Frozen once `schedule` has returned it."""

    __slots__ = ("decodes", "left_tokens", "preempted", "prefills")

    def __init__(self, budget_tokens: int) -> None:
        self.left_tokens = budget_tokens
        self.prefills: list[Chunk] = []
        self.decodes: list[ModelRequest] = []
        self.preempted: list[ModelRequest] = []

    def __bool__(self) -> bool:
        return bool(self.decodes or self.prefills)

    def add(self, request: ModelRequest, tokens: int) -> None:
        """One last token after a context is a decode, whoever made the context: kernels see no difference."""
        if tokens == 1 and request.computed and request.computed + 1 == request.tokens:
            self.decode(request)
        else:
            self.prefills.append(Chunk(request, tokens, request.computed))
            self.left_tokens -= tokens

    def decode(self, request: ModelRequest) -> None:
        self.decodes.append(request)
        self.left_tokens -= 1

    def withdraw(self, request: ModelRequest) -> None:
        """It was preempted for another request of the same step, maybe before its own turn came."""
        if request in self.decodes:
            self.decodes.remove(request)
            self.left_tokens += 1
        for chunk in self.prefills:
            if chunk.request is request:
                self.prefills.remove(chunk)
                self.left_tokens += chunk.tokens
                break

    def work(self) -> StepWork:
        return StepWork(
            prefill_tokens=sum(chunk.tokens for chunk in self.prefills),
            prefill_pairs=sum(chunk.tokens * chunk.context + chunk.tokens**2 / 2 for chunk in self.prefills),
            decodes=len(self.decodes),
            context_tokens=sum([request.computed for request in self.decodes]),
        )


class Outcome(NamedTuple):
    """`sampled`: those with one more output token, which is counted. `finished`: those of them at their limit."""

    sampled: list[ModelRequest]
    finished: list[ModelRequest]


__all__ = ["Chunk", "Outcome", "Plan"]
