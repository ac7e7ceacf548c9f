"""Memory-aware admission: an instance is not given more than its KV memory will hold at the worst moment to come, so
that preemptions stay rare (the idea of the Past-Future scheduler, ASPLOS 2025).

With n requests that use M tokens now, and a share q of them having at least r(q) tokens to go, in r(q) steps the
others are gone and these have grown: q * (M + n * r(q)) tokens. That is the mean: which ones are gone is chance, so the
share counts with some deviations of a binomial on top. The peak is the largest of these over q, and q = 1 is now.
"""

from __future__ import annotations

import numpy as np

from shoal.router.filters import Filter
from shoal.router.snapshot import Bools, Floats, Question

DEVIATIONS = 2.0


def future_peak_tokens(question: Question) -> Floats:
    """By row, this request included. Queued prefill counts as if it were there."""
    snapshot, foresight = question.snapshot, question.foresight
    share, to_go = foresight.shares[:, None], foresight.remaining_tokens[:, None]
    present = (snapshot.members.total_blocks - snapshot.free_blocks) * snapshot.members.block_size
    present = present + snapshot.prefill_tokens
    own = question.request.context_tokens - question.cached_tokens
    held = share + DEVIATIONS * np.sqrt(share * (1 - share) / np.maximum(snapshot.requests, 1))
    growth = np.minimum(to_go, question.new_tokens)
    peak: Floats = (held * (present + snapshot.requests * to_go) + growth).max(axis=0) + own
    return peak


def _keep_holdable(question: Question, left: Bools) -> Bools:
    """An idle instance holds whatever its model length allows."""
    if not len(question.foresight.shares):
        return left
    members, snapshot = question.members, question.snapshot
    holdable = future_peak_tokens(question) <= members.total_blocks * members.block_size
    return left & (holdable | (snapshot.requests == 0))


HOLDABLE = Filter(
    "holdable", _keep_holdable, lambda q: "no instance will have the KV memory that it may need", holds_up=True
)

__all__ = ["HOLDABLE", "future_peak_tokens"]
