"""What it costs to serve this request there. A scorer returns one number per row, never negative; less is better.

  turn               number of the latest placement that went there: the least is whose turn it is
  requests           running and waiting requests, bookings included
  least_work         prefill tokens to compute before this request is done with its own x batch size with it
                     (LMetric), no cache credit
  prefix_least_work  the same, less what that instance holds of this request
  miss               share of this request's context that is not in its cache, 0 to 1
  kv_use             share of its KV blocks that are taken, 0 to 1
  context_tokens     context of its running requests: what each decode step has to read
  step_ms            its recent step time
  impact_ms          price of adding this request to its mix (see `impact`)

Those of other projects' policies stand with their formulas in `policies/`.

The product in least_work prices both sides of a mixed engine at once: tokens ahead of this request delay its first
token, and each of its own prefill tokens delays a token of everybody in the batch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from shoal.router.delay import TERMS
from shoal.router.impact import impact_ms
from shoal.router.policies.aibrix import aibrix_prefix_cache
from shoal.router.policies.dynamo import dynamo_cost
from shoal.router.policies.llmd import llmd_prefix, llmd_queue
from shoal.router.policies.llumnix import llumnix_backlog, llumnix_freeness
from shoal.router.policies.memserve import memserve_prompt_tree
from shoal.router.policies.programs import autellix, session_sticky
from shoal.router.policies.sglang import sglang_cache_aware
from shoal.router.snapshot import Floats, Question

Scorer = Callable[[Question], Floats]


def turn(question: Question) -> Floats:
    return question.snapshot.turn


def requests(question: Question) -> Floats:
    return question.snapshot.requests


def least_work(question: Question) -> Floats:
    snapshot = question.snapshot
    return (snapshot.prefill_tokens + question.request.context_tokens) * (snapshot.requests + 1)


def prefix_least_work(question: Question) -> Floats:
    snapshot = question.snapshot
    own_tokens = question.request.context_tokens - question.cached_tokens
    return (snapshot.prefill_tokens + own_tokens) * (snapshot.requests + 1)


def miss(question: Question) -> Floats:
    return 1 - question.cached_tokens / max(question.request.context_tokens, 1)


def kv_use(question: Question) -> Floats:
    return np.maximum(1 - question.snapshot.free_blocks / np.maximum(question.members.total_blocks, 1), 0)


def context_tokens(question: Question) -> Floats:
    return question.snapshot.context_tokens


def step_ms(question: Question) -> Floats:
    return question.snapshot.step_ms


SCORERS: dict[str, Scorer] = {
    "turn": turn,
    "requests": requests,
    "least_work": least_work,
    "prefix_least_work": prefix_least_work,
    "miss": miss,
    "kv_use": kv_use,
    "context_tokens": context_tokens,
    "step_ms": step_ms,
    "impact_ms": impact_ms,
    **TERMS,
    "sglang_cache_aware": sglang_cache_aware,
    "dynamo_cost": dynamo_cost,
    "aibrix_prefix_cache": aibrix_prefix_cache,
    "llmd_prefix": llmd_prefix,
    "llmd_queue": llmd_queue,
    "llumnix_freeness": llumnix_freeness,
    "llumnix_backlog": llumnix_backlog,
    "memserve_prompt_tree": memserve_prompt_tree,
    "session_sticky": session_sticky,
    "autellix": autellix,
}

__all__ = ["SCORERS", "Scorer", *(name for name in SCORERS if name not in TERMS)]
