"""prefix-cache of AIBrix, with the values that its installation sets.

most - least > 16 requests    -> the fewest requests
else among those that match at all and have at most mean + 2 standard deviations of requests:
                                 the highest match in percent, of equals the fewest requests
nobody                        -> the fewest requests
"""

from __future__ import annotations

import numpy as np

from shoal.router.snapshot import Floats, Question

IMBALANCE_REQUESTS = 16
DEVIATIONS = 2
_UNMATCHED = 101  # worse than any missing percentage


def aibrix_prefix_cache(question: Question) -> Floats:
    """Missing percent first; the share of requests, below 1, decides between equals."""
    requests = question.snapshot.requests
    if requests.max() - requests.min() > IMBALANCE_REQUESTS:
        return requests
    percent = question.cached_tokens * 100 // max(question.request.context_tokens, 1)
    eligible = (percent > 0) & (requests <= requests.mean() + DEVIATIONS * requests.std())
    cost: Floats = np.where(eligible, 100 - percent, _UNMATCHED) + requests / (requests.max() + 1)
    return cost


__all__ = ["DEVIATIONS", "IMBALANCE_REQUESTS", "aibrix_prefix_cache"]
