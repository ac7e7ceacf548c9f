"""The price of adding a request to an instance's present mix, in ms of everybody's time: what it waits for, and what
all others lose to it.

The mixing term of the paper "Intelligent Router for LLM Workloads" (alpha * prefill side + (1 - alpha) * decode side,
alpha = 0.5) with its two slopes replaced by the five coefficients of a step:

  prefill   own prefill after what is queued, plus own prefill once for each request that runs meanwhile
  decode    own tokens at the pace of the batch, plus what each of them adds to the steps of the others
"""

from __future__ import annotations

from shoal.router.snapshot import Floats, Question

ALPHA = 0.5


def impact_ms(question: Question) -> Floats:
    return ALPHA * prefill_impact_ms(question) + (1 - ALPHA) * decode_impact_ms(question)


def prefill_impact_ms(question: Question) -> Floats:
    snapshot, step = question.snapshot, question.foresight.step
    own_tokens = question.request.context_tokens - question.cached_tokens
    pairs = own_tokens * (question.cached_tokens + own_tokens / 2)
    own_ms = step.b_ms * own_tokens + step.c_ms * pairs / 1e6
    impact: Floats = step.b_ms * snapshot.prefill_tokens + own_ms * (1 + snapshot.requests)
    return impact


def decode_impact_ms(question: Question) -> Floats:
    snapshot, step = question.snapshot, question.foresight.step
    context_tokens, new_tokens = question.request.context_tokens, question.new_tokens
    adds_ms = step.d_ms + step.e_ms * (context_tokens + new_tokens / 2) / 1000
    batch_ms = step.a_ms + step.d_ms * snapshot.requests + step.e_ms * snapshot.context_tokens / 1000
    impact: Floats = new_tokens * (batch_ms + adds_ms * (1 + snapshot.requests))
    return impact


__all__ = ["ALPHA", "decode_impact_ms", "impact_ms", "prefill_impact_ms"]
