"""Scorers of the llm-d inference scheduler whose form differs from ours, turned from scores into costs (1 - score).
Its precise-prefix profile weighs prefix 2, KV use 1, queue 1, and takes the best.

  prefix   matched blocks / blocks of the prompt
  queue    (longest - own) / (longest - shortest) of the waiting requests; 1 where all are equal
  KV use   1 - share of blocks taken (our `kv_use`)
"""

from __future__ import annotations

import numpy as np

from shoal.router.snapshot import Floats, Question

PRECISE_PREFIX = {"llmd_prefix": 2.0, "kv_use": 1.0, "llmd_queue": 1.0}


def llmd_prefix(question: Question) -> Floats:
    blocks = max(len(question.request.block_hashes), 1)
    missed: Floats = 1 - question.cached_tokens / question.members.block_size / blocks
    return missed


def llmd_queue(question: Question) -> Floats:
    waiting = question.snapshot.waiting
    shortest, longest = waiting.min(), waiting.max()
    if longest == shortest:
        return np.zeros(len(waiting))
    spread: Floats = (waiting - shortest) / (longest - shortest)
    return spread


__all__ = ["PRECISE_PREFIX", "llmd_prefix", "llmd_queue"]
