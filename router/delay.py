"""What placing this request there costs everybody, in ms of time to a last token: the terms of `least_delay`. Their
sum is the price of the placement to first order: what the request itself waits and takes, and what it takes from those
that run there. Step times come from the five coefficients in the foresight. All weights are 1 but that of the stall: a
step's first 200 tokens or so cost nothing, which the coefficients do not tell.

  queue_ms    prefill ahead of it, computed in steps that decode for the batch too
  prefill_ms  its own uncached prompt, in such steps
  pace_ms     its own answer, at the pace of that batch with it
  stall_ms    its prefill, once for each request that decodes meanwhile
  drag_ms     what each of its tokens adds to the steps of the others, as long as both run
  crowd_ms    what is queued there, once for each request that is there
  late_ms     predicted TTFT beyond the goal
  slow_ms     time per token beyond the goal, predicted or seen in the latest step, over the answer

The goals are those of the benchmarks: TTFT 0.5 s + 2 x the uncached prefill alone, three lone decode steps per token.
"""

from __future__ import annotations

import numpy as np

from shoal.router.snapshot import Floats, Question

WEIGHTS = {"stall_ms": 0.5}  # others: 1
TTFT_BASE_MS, TTFT_PREFILLS, TPOT_STEPS = 500.0, 2.0, 3.0


def step_ms(question: Question) -> Floats:
    """A step that only decodes for those that are there."""
    snapshot, step = question.snapshot, question.foresight.step
    paced: Floats = step.a_ms + step.d_ms * snapshot.requests + step.e_ms * snapshot.context_tokens / 1000
    return paced


def _own_tokens(question: Question) -> Floats:
    return question.request.context_tokens - question.cached_tokens


def _compute_ms(question: Question) -> Floats:
    """Of the own uncached prompt, steps not counted."""
    step, cached, own_tokens = question.foresight.step, question.cached_tokens, _own_tokens(question)
    computed: Floats = step.b_ms * own_tokens + step.c_ms * own_tokens * (cached + own_tokens / 2) / 1e6
    return computed


def queue_ms(question: Question) -> Floats:
    """Of what is queued only the tokens are known: it is taken for equal prompts."""
    snapshot, step = question.snapshot, question.foresight.step
    ahead = snapshot.prefill_tokens
    pairs = ahead * ahead / (2 * np.maximum(snapshot.waiting, 1))
    steps = ahead / question.members.step_tokens
    waited: Floats = step.b_ms * ahead + step.c_ms * pairs / 1e6 + steps * step_ms(question)
    return waited


def prefill_ms(question: Question) -> Floats:
    steps = np.ceil(_own_tokens(question) / question.members.step_tokens)
    taken: Floats = _compute_ms(question) + steps * step_ms(question)
    return taken


def token_ms(question: Question) -> Floats:
    """One token of its answer, on average over it."""
    return step_ms(question) + _added_ms(question)


def _added_ms(question: Question) -> float:
    """To each step that it decodes in."""
    step, context_tokens = question.foresight.step, question.request.context_tokens
    return step.d_ms + step.e_ms * (context_tokens + question.new_tokens / 2) / 1000


def pace_ms(question: Question) -> Floats:
    return question.new_tokens * token_ms(question)


def stall_ms(question: Question) -> Floats:
    return _compute_ms(question) * question.snapshot.requests


def drag_ms(question: Question) -> Floats:
    return _added_ms(question) * _overlap_tokens(question) * question.snapshot.requests


def _overlap_tokens(question: Question) -> float:
    """E[min(its answer, what is left of another's)]."""
    left, new_tokens = question.foresight.remaining_tokens, question.new_tokens
    return float(np.minimum(left, new_tokens).mean()) if len(left) else new_tokens / 2


def crowd_ms(question: Question) -> Floats:
    """No first-order price: a queue beside a large batch is what goes wrong first where loads come in bursts."""
    snapshot = question.snapshot
    crowd: Floats = question.foresight.step.b_ms * snapshot.prefill_tokens * snapshot.requests
    return crowd


def late_ms(question: Question) -> Floats:
    ttft_ms = queue_ms(question) + prefill_ms(question)
    goal_ms = TTFT_BASE_MS + TTFT_PREFILLS * (_compute_ms(question) + question.foresight.step.a_ms)
    late: Floats = np.maximum(ttft_ms - goal_ms, 0)
    return late


def slow_ms(question: Question) -> Floats:
    goal_ms = TPOT_STEPS * question.foresight.step.a_ms
    over = np.maximum(np.maximum(token_ms(question), question.snapshot.step_ms) - goal_ms, 0)
    slow: Floats = over * question.new_tokens
    return slow


TERMS = {one.__name__: one for one in (queue_ms, prefill_ms, pace_ms, stall_ms, drag_ms, crowd_ms, late_ms, slow_ms)}

__all__ = ["TERMS", "WEIGHTS", *TERMS]
