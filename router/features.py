"""What the learned part sees of one candidate: a row of numbers that mean the same for any number of instances, any
model and any load. Differences from the best candidate and ratios, no name and no number of an instance.

  queue batch context waiting   log(1 + prefill tokens / 1,000, requests, context tokens / 10,000, waiting requests),
                                less the least of all candidates'
  full                          share of its KV blocks taken
  miss                          share of this context that it has not cached
  dear                          log(price / least price)
  long_queue long_batch         queue and batch times log(1 + own uncached tokens / 1,000)
  answer_batch answer_context   batch and context times log(1 + expected answer / 100)
  slow                          log(its recent step time / the least)

LOAD names those that only grow with the load of a candidate. The request's own two numbers (`long`, `answer`) are in
REQUEST, for whoever watches whether requests are still like those of the training.
"""

from __future__ import annotations

import numpy as np

from shoal.router.snapshot import Floats, Question

FEATURES = (
    "queue",
    "batch",
    "context",
    "waiting",
    "full",
    "miss",
    "dear",
    "long_queue",
    "long_batch",
    "answer_batch",
    "answer_context",
    "slow",
)
LOAD = frozenset({"queue", "batch", "context", "waiting", "full", "slow"})
SCALED_BY = {  # a product's coefficient adds to that of its load feature, times a number of the request
    "long_queue": ("queue", "long"),
    "long_batch": ("batch", "long"),
    "answer_batch": ("batch", "answer"),
    "answer_context": ("context", "answer"),
}
REQUEST = ("long", "answer")
MOST = {"long": 5.0, "answer": 5.0}  # of prompts and answers that anybody sends: 147,000 and 14,700 tokens


def features(question: Question, prices_ms: Floats) -> Floats:
    """One row per candidate, one column per name in FEATURES."""
    snapshot = question.snapshot
    context_tokens = max(question.request.context_tokens, 1)
    queue = _over_least(np.log1p(snapshot.prefill_tokens / 1e3))
    batch = _over_least(np.log1p(snapshot.requests))
    context = _over_least(np.log1p(snapshot.context_tokens / 1e4))
    waiting = _over_least(np.log1p(snapshot.waiting))
    full = 1 - snapshot.free_blocks / np.maximum(snapshot.members.total_blocks, 1)
    miss = 1 - question.cached_tokens / context_tokens
    dear = _over_least(np.log(np.maximum(prices_ms, 1e-3)))
    long = np.log1p(miss * context_tokens / 1e3)
    answer = np.log1p(question.new_tokens / 100)
    slow = _over_least(np.log(np.maximum(snapshot.step_ms, 1.0)))
    columns = (queue, batch, context, waiting, full, miss, dear, long * queue, long * batch, answer * batch)
    rows: Floats = np.stack([*columns, answer * context, slow], axis=1)
    return rows


def of_request(question: Question) -> tuple[float, float]:
    """`long` (nothing cached) and `answer`."""
    return float(np.log1p(question.request.context_tokens / 1e3)), float(np.log1p(question.new_tokens / 100))


def _over_least(column: Floats) -> Floats:
    over: Floats = column - column.min()
    return over


__all__ = ["FEATURES", "LOAD", "MOST", "REQUEST", "SCALED_BY", "features", "of_request"]
