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
    """By row, this request included."""
    foresight, requests = question.foresight, question.snapshot.requests
    share, to_go = foresight.shares[:, None], foresight.remaining_tokens[:, None]
    left = np.minimum(share + DEVIATIONS * np.sqrt(share * (1 - share) / np.maximum(requests, 1)), 1)
    growth = np.minimum(to_go, question.new_tokens)
    peak: Floats = (left * (_present_tokens(question) + requests * to_go) + growth).max(axis=0) + _own_tokens(question)
    return peak


def most_tokens(question: Question) -> Floats:
    """A bound of the peak that is quick to tell: nobody ends, and all grow by the longest time."""
    growth = (question.snapshot.requests + 1) * question.foresight.remaining_tokens[0]
    most: Floats = _present_tokens(question) + _own_tokens(question) + growth
    return most


def _present_tokens(question: Question) -> Floats:
    """Queued prefill counts as if it were there."""
    snapshot = question.snapshot
    used_blocks = snapshot.members.total_blocks - snapshot.free_blocks
    return used_blocks * snapshot.members.block_size + snapshot.prefill_tokens


def _own_tokens(question: Question) -> Floats:
    return question.request.context_tokens - question.cached_tokens


def _keep_holdable(question: Question, left: Bools) -> Bools:
    """An idle instance holds whatever its model length allows. The peak is worked out where the bound doesn't do."""
    if not len(question.foresight.shares):
        return left
    doubtful = left & (most_tokens(question) > question.members.tokens)
    if not np.count_nonzero(doubtful):
        return left
    rows = np.flatnonzero(doubtful)
    asked, kept = question.only(rows), left.copy()
    kept[rows] = (future_peak_tokens(asked) <= asked.members.tokens) | (asked.snapshot.requests == 0)
    return kept


HOLDABLE = Filter(
    "holdable", _keep_holdable, lambda q: "no instance will have the KV memory that it may need", holds_up=True
)

__all__ = ["DEVIATIONS", "HOLDABLE", "future_peak_tokens", "most_tokens"]
