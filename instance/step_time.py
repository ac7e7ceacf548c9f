"""How long one engine step takes, from what is in it. Pure arithmetic: no clock, no noise.

The five-coefficient form is our least-squares fit to step tables, measured and composed (aiconfigurator 0.12, Vidur,
LLMServingSim, own CPU runs): mean error 3 to 8 % on GPUs. The hinge form replaces the price per prefill token by one
per token of the whole batch beyond a threshold, below which matrix products wait for weights and not for arithmetic.
The table form has one time per total of tokens in between of which it draws straight lines, and linear attention.

In every form a decode step grows linearly with its context, so that the time of many such steps has a closed form.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from shoal.proto.config import FakeEngineConfig


class StepWork(NamedTuple):
    """What a step computes. `prefill_pairs`: sum over chunks of p*ctx + p*p/2. `context_tokens`: what decodes read."""

    prefill_tokens: int = 0
    prefill_pairs: float = 0.0
    decodes: int = 0
    context_tokens: int = 0


class StepTime(Protocol):
    def step_ms(self, work: StepWork) -> float:
        """Time of a step that computes something; a step without work is never asked for."""

    @property
    def growth_ms(self) -> float:
        """How much longer a decode takes per token of context: what each step of a batch adds, per request, to the
        next one."""


@dataclass(frozen=True, slots=True)
class LinearStepTime:
    """t = a + b*P + c*sum(p*ctx + p*p/2)/1e6 + d*D + e*KV/1000, in ms."""

    a_ms: float
    b_ms: float
    c_ms: float
    d_ms: float
    e_ms: float

    @classmethod
    def from_config(cls, config: FakeEngineConfig) -> LinearStepTime:
        return cls(config.a_ms, config.b_ms, config.c_ms, config.d_ms, config.e_ms)

    @property
    def growth_ms(self) -> float:
        return self.e_ms / 1000

    def step_ms(self, work: StepWork) -> float:
        return (
            self.a_ms
            + self.b_ms * work.prefill_tokens
            + self.c_ms * work.prefill_pairs / 1e6
            + self.d_ms * work.decodes
            + self.e_ms * work.context_tokens / 1000
        )


@dataclass(frozen=True, slots=True)
class HingeStepTime:
    """t = a + b*max(0, P + D - hinge) + c*sum(p*ctx + p*p/2)/1e6 + d*D + e*KV/1000, in ms."""

    a_ms: float
    b_ms: float
    c_ms: float
    d_ms: float
    e_ms: float
    hinge_tokens: int

    @property
    def growth_ms(self) -> float:
        return self.e_ms / 1000

    def step_ms(self, work: StepWork) -> float:
        return (
            self.a_ms
            + self.b_ms * max(0, work.prefill_tokens + work.decodes - self.hinge_tokens)
            + self.c_ms * work.prefill_pairs / 1e6
            + self.d_ms * work.decodes
            + self.e_ms * work.context_tokens / 1000
        )


@dataclass(frozen=True, slots=True)
class TableStepTime:
    """t = dense(P + D) + c*sum(p*ctx + p*p/2)/1e6 + d*D + e*KV/1000, in ms; `dense` is drawn through `knots` (tokens,
    rising) and their `dense_ms`, beyond the last as between the last two."""

    knots: tuple[int, ...]
    dense_ms: tuple[float, ...]
    c_ms: float
    d_ms: float
    e_ms: float

    @property
    def growth_ms(self) -> float:
        return self.e_ms / 1000

    def step_ms(self, work: StepWork) -> float:
        return (
            self._dense_ms(work.prefill_tokens + work.decodes)
            + self.c_ms * work.prefill_pairs / 1e6
            + self.d_ms * work.decodes
            + self.e_ms * work.context_tokens / 1000
        )

    def _dense_ms(self, tokens: int) -> float:
        right = min(max(bisect_right(self.knots, tokens), 1), len(self.knots) - 1)
        x0, x1 = self.knots[right - 1], self.knots[right]
        y0, y1 = self.dense_ms[right - 1], self.dense_ms[right]
        return y0 + (y1 - y0) * (max(tokens, x0) - x0) / (x1 - x0)


@dataclass(frozen=True, slots=True)
class WithOverhead:
    """A constant per step on top: scheduling and what else a deployment adds to its kernels."""

    kernels: StepTime
    overhead_ms: float

    @property
    def growth_ms(self) -> float:
        return self.kernels.growth_ms

    def step_ms(self, work: StepWork) -> float:
        return self.kernels.step_ms(work) + self.overhead_ms


__all__ = ["HingeStepTime", "LinearStepTime", "StepTime", "StepWork", "TableStepTime", "WithOverhead"]
