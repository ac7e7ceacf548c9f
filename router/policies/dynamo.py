"""The KV router of NVIDIA Dynamo 1.6 (lib/kv-router, default selector) with its default settings, in blocks:

  cost = max(0, active prefill + prompt - credit) + decode
  credit = 1.0 x device hit + 0.75 x host hit + 0.25 x disk hit
  decode = blocks of all its requests, this one's included

Our pool stands for its host tier. What its slot tracker books is what our view books; a block shared by several
running requests counts once there and once per request here.
"""

from __future__ import annotations

import numpy as np

from shoal.router.snapshot import Floats, Question

DEVICE_CREDIT, HOST_CREDIT, DISK_CREDIT = 1.0, 0.75, 0.25


def dynamo_cost(question: Question) -> Floats:
    snapshot, prompt_tokens = question.snapshot, question.request.context_tokens
    host_tokens = question.pool_tokens - question.cached_tokens
    disk_tokens = question.disk_tokens - question.pool_tokens
    credit = DEVICE_CREDIT * question.cached_tokens + HOST_CREDIT * host_tokens + DISK_CREDIT * disk_tokens
    prefill = np.maximum(snapshot.prefill_tokens + prompt_tokens - credit, 0)
    decode = snapshot.context_tokens + snapshot.prefill_tokens + prompt_tokens
    cost: Floats = (prefill + decode) / snapshot.members.block_size
    return cost


__all__ = ["DEVICE_CREDIT", "DISK_CREDIT", "HOST_CREDIT", "dynamo_cost"]
