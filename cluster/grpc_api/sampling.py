"""SamplingParams of the wire to checked arguments of vLLM's SamplingParams: the one place that judges them.

A wrong value is an InvalidArgument that names field, limit and given value, and no engine ever sees it. What only vLLM
can judge (does a regular expression compile?) is left to it. Pure, and without vLLM: the port builds its objects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from shoal.cluster.body_checks import check_schema_text
from shoal.cluster.grammar_limits import check_text
from shoal.proto.errors import InvalidArgument
from shoal.proto.limits import LimitsConfig
from shoal.proto.v1 import inference_pb2 as pb

DEFAULT_MAX_TOKENS = 16  # vLLM's
GREEDY_BELOW = 1e-5  # vLLM samples greedily below this temperature


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """Limits that the engine sets."""

    max_model_len: int
    vocabulary: int
    max_logprobs: int
    vllm_version: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """Checked. `fields` are arguments of vLLM's SamplingParams, `structured` of its StructuredOutputsParams."""

    fields: dict[str, Any]
    structured: dict[str, Any] | None
    choices: int


@dataclass(frozen=True, slots=True)
class Range:
    words: str
    holds: Callable[[float], bool]


# NaN fails every comparison, so it holds in none of these. vLLM would take any repetition penalty above zero; as
# float32 an extreme one turns logits into NaN, which no client may do to a batch that it shares with others.
RANGES = {
    "temperature": Range("0 to 2", lambda x: 0 <= x <= 2),
    "top_p": Range("above 0 and at most 1", lambda x: 0 < x <= 1),
    "top_k": Range("-1 (all), 0 (all) or more", lambda x: x >= -1),
    "min_p": Range("0 to 1", lambda x: 0 <= x <= 1),
    "presence_penalty": Range("-2 to 2", lambda x: -2 <= x <= 2),
    "frequency_penalty": Range("-2 to 2", lambda x: -2 <= x <= 2),
    "repetition_penalty": Range("0.001 to 1000", lambda x: 1e-3 <= x <= 1e3),
    "max_tokens": Range("at least 1", lambda x: x >= 1),
    "min_tokens": Range("at least 0", lambda x: x >= 0),
    "seed": Range("a 64-bit integer", lambda x: True),
    "skip_special_tokens": Range("true or false", lambda x: True),
}


def short(value: object) -> object:
    """A value fit for one line of an error."""
    return value if len(repr(value)) <= 100 else f"{str(value)[:90]}..."


def check_sampling(wire: pb.SamplingParams, facts: EngineFacts, limits: LimitsConfig) -> Sampling:
    """All that can be judged without the prompt; see `fit` for the rest."""
    fields = _ranged(wire)
    choices = _choices(wire, limits)
    fields |= _stops(wire, facts, limits) | _logprobs(wire, facts) | _token_rules(wire, facts, limits)
    fields |= {
        "n": choices,
        "ignore_eos": wire.ignore_eos,
        "include_stop_str_in_output": wire.include_stop_str_in_output,
    }
    return Sampling(fields, _structured(wire, limits), choices)


def fit(sampling: Sampling, prompt_tokens: int, facts: EngineFacts) -> Sampling:
    """With max_tokens settled. Raises where prompt and output do not fit the model."""
    room = facts.max_model_len - prompt_tokens
    if prompt_tokens < 1 or room < 1:
        raise InvalidArgument("prompt", limit=f"1 to {facts.max_model_len - 1} tokens", given=prompt_tokens)
    max_tokens = sampling.fields.get("max_tokens", min(DEFAULT_MAX_TOKENS, room))
    if max_tokens > room:
        words = f"at most {room} (max_model_len {facts.max_model_len} less {prompt_tokens} prompt tokens)"
        raise InvalidArgument("max_tokens", limit=words, given=max_tokens)
    if sampling.fields.get("min_tokens", 0) > max_tokens:
        limit = f"at most max_tokens, {max_tokens}"
        raise InvalidArgument("min_tokens", limit=limit, given=sampling.fields["min_tokens"])
    return replace(sampling, fields={**sampling.fields, "max_tokens": max_tokens})


def check_token_ids(field: str, ids: Iterable[int], facts: EngineFacts) -> list[int]:
    ids = list(ids)
    bad = next((i for i in ids if not 0 <= i < facts.vocabulary), None)
    if bad is not None:
        raise InvalidArgument(field, limit=f"token ids from 0 to {facts.vocabulary - 1}", given=bad)
    return ids


def _ranged(wire: pb.SamplingParams) -> dict[str, Any]:
    fields = {name: getattr(wire, name) for name in RANGES if wire.HasField(name)}
    for name, value in fields.items():
        if not RANGES[name].holds(value):
            raise InvalidArgument(name, limit=RANGES[name].words, given=value)
    return fields


def _choices(wire: pb.SamplingParams, limits: LimitsConfig) -> int:
    choices = wire.n or 1
    if choices > limits.choices:
        raise InvalidArgument("n", limit=f"at most {limits.choices}", given=choices)
    if choices > 1 and wire.HasField("temperature") and wire.temperature < GREEDY_BELOW:
        raise InvalidArgument("n", limit="1 where temperature is 0", given=choices)
    return choices


def _stops(wire: pb.SamplingParams, facts: EngineFacts, limits: LimitsConfig) -> dict[str, Any]:
    if len(wire.stop) > limits.stops:
        raise InvalidArgument("stop", limit=f"at most {limits.stops} strings", given=len(wire.stop))
    if "" in wire.stop:
        raise InvalidArgument("stop", limit="without an empty string", given="")
    ids = check_token_ids("stop_token_ids", wire.stop_token_ids, facts)
    return {"stop": list(wire.stop), "stop_token_ids": list(dict.fromkeys(ids))}


def _logprobs(wire: pb.SamplingParams, facts: EngineFacts) -> dict[str, Any]:
    asked = [name for name in ("logprobs", "prompt_logprobs") if wire.HasField(name)]
    fields = {name: getattr(wire, name) for name in asked}
    for name, count in fields.items():
        if count > facts.max_logprobs:
            raise InvalidArgument(name, limit=f"at most {facts.max_logprobs}", given=count)
    return fields


def _token_rules(wire: pb.SamplingParams, facts: EngineFacts, limits: LimitsConfig) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if wire.logit_bias:
        check_token_ids("logit_bias", wire.logit_bias, facts)
        for token_id, bias in wire.logit_bias.items():
            if not -100 <= bias <= 100:
                raise InvalidArgument(f"logit_bias[{token_id}]", limit="-100 to 100", given=bias)
        fields["logit_bias"] = dict(wire.logit_bias)
    if wire.bad_words:
        _check_bytes("bad_words", wire.bad_words, limits)
        if "" in wire.bad_words:
            raise InvalidArgument("bad_words", limit="without an empty string", given="")
        fields["bad_words"] = list(wire.bad_words)
    if wire.allowed_token_ids:
        ids = check_token_ids("allowed_token_ids", wire.allowed_token_ids, facts)
        fields["allowed_token_ids"] = list(dict.fromkeys(ids))
    return fields


def _structured(wire: pb.SamplingParams, limits: LimitsConfig) -> dict[str, Any] | None:
    match wire.WhichOneof("structured"):
        case "json_schema":
            _check_bytes("json_schema", [wire.json_schema], limits)
            check_schema_text("json_schema", wire.json_schema, limits.grammar_repeats)
            return {"json": wire.json_schema}
        case "json_object":
            if not wire.json_object:
                raise InvalidArgument("json_object", limit="true where it is given", given=False)
            return {"json_object": True}
        case "choice":
            _check_bytes("choice", wire.choice.choices, limits)
            if not wire.choice.choices or "" in wire.choice.choices:
                limit = "at least one string, none of them empty"
                raise InvalidArgument("choice", limit=limit, given=short(list(wire.choice.choices)))
            return {"choice": list(wire.choice.choices)}
        case "regex" | "grammar" as kind:
            value = getattr(wire, kind)
            _check_bytes(kind, [value], limits)
            if not (value.strip() if kind == "grammar" else value):  # white space may be a regular expression
                raise InvalidArgument(kind, limit="not empty", given=value[:100])
            check_text(kind, value, limits.grammar_repeats)
            return {kind: value}
        case _:
            return None


def _check_bytes(field: str, strings: Iterable[str], limits: LimitsConfig) -> None:
    given = sum(len(s.encode()) for s in strings)
    if given > limits.grammar_bytes:
        raise InvalidArgument(field, limit=f"at most {limits.grammar_bytes} bytes", given=given)


def check_deadline_s(given: float) -> float:
    if not (math.isfinite(given) and given >= 0):
        raise InvalidArgument("deadline_s", limit="0 (the default) or more seconds", given=given)
    return given


__all__ = ["EngineFacts", "Sampling", "check_deadline_s", "check_sampling", "check_token_ids", "fit", "short"]
