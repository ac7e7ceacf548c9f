"""The two dispatch rules of Llumnix.

freeness          steps of decoding left: (free blocks - blocks of queued prompts) / batch size; the most is best
                  (paper; `remaining_steps` of the Ray version)
miss and backlog  prompt tokens missing there + all prefill tokens ahead, dispatched ones included (Go version)
"""

from __future__ import annotations

import numpy as np

from shoal.router.snapshot import Floats, Question


def llumnix_freeness(question: Question) -> Floats:
    """Steps fewer than the freest has. An idle instance counts as a batch of one."""
    snapshot = question.snapshot
    queued_blocks = snapshot.prefill_tokens / snapshot.members.block_size
    steps = (snapshot.free_blocks - queued_blocks) / np.maximum(snapshot.requests, 1)
    fewer: Floats = steps.max() - steps
    return fewer


def llumnix_backlog(question: Question) -> Floats:
    missed = question.request.context_tokens - question.cached_tokens
    return missed + question.snapshot.prefill_tokens


__all__ = ["llumnix_backlog", "llumnix_freeness"]
