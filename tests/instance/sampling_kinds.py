"""The kinds of sampling that must survive a move, as arguments of vLLM's SamplingParams."""

from typing import Any

SCHEMA = (
    '{"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"string"},"c":{"type":"array","items":'
    '{"type":"boolean"},"maxItems":4}},"required":["a","b","c"],"additionalProperties":false}'
)
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "seeded with penalties": {
        "seed": 7,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.3,
        "repetition_penalty": 1.2,
    },
    "logprobs": {"temperature": 0, "logprobs": 5},
    "cut distribution": {"seed": 9, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "logit_bias": {5: 2.0}},
    "min tokens": {"seed": 3, "min_tokens": 25, "ignore_eos": False, "logit_bias": {257: 6.0}},
    "allowed tokens": {"seed": 4, "allowed_token_ids": [3, 5, 8, 13, 21]},
    "json": {"seed": 3, "ignore_eos": False},
    "stop ids": {"seed": 5, "stop_token_ids": list(range(0, 256, 25)), "min_tokens": 10},
    "stop strings": {"seed": 6, "stop": ["a", "Q", "7x", "~", "ab"], "min_tokens": 5},
}

__all__ = ["KINDS", "SCHEMA"]
