"""cache_aware of the SGLang router (sglang-router 0.3 and the gateways forked from it): the longest match, unless the
fleet is out of balance.

  out of balance: most - least > 64 and most > 1.5 x least requests    -> the fewest requests
  else, if the longest match is more than 0.3 of the prompt            -> the longest match
  else                                                                 -> the smallest tree

Its tree of what it sent where is our index of what instances hold, and ties are broken at random, not by position.
"""

from __future__ import annotations

from shoal.router.snapshot import Floats, Question

BALANCE_ABS_REQUESTS = 64
BALANCE_REL = 1.5
CACHE_THRESHOLD = 0.3


def sglang_cache_aware(question: Question) -> Floats:
    requests = question.snapshot.requests
    most, least = requests.max(), requests.min()
    if most - least > BALANCE_ABS_REQUESTS and most > BALANCE_REL * least:
        return requests
    match = question.cached_tokens / max(question.request.context_tokens, 1)
    if match.max() > CACHE_THRESHOLD:
        missed: Floats = 1 - match
        return missed
    return question.snapshot.cached_blocks


__all__ = ["BALANCE_ABS_REQUESTS", "BALANCE_REL", "CACHE_THRESHOLD", "sglang_cache_aware"]
