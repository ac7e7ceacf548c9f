"""What was seen to end a vLLM engine is refused before it gets there, with field, limit and whose fault it is."""

from types import SimpleNamespace
from typing import Any

import pytest

from shoal.instance.request_checks import RequestLimits
from shoal.instance.seam import Refused


def verify(params: Any) -> None:
    if params.logprobs:
        raise ValueError("logprobs: 99 is above 20")


LIMITS = RequestLimits(vocabulary=256, max_model_len=100, block_size=4, total_blocks=20, loras={1: "a"}, verify=verify)


def params(**changes: Any) -> SimpleNamespace:
    usual = {
        "max_tokens": 50,
        "min_tokens": 0,
        "all_stop_token_ids": set(),
        "bad_words_token_ids": None,
        "logprobs": None,
    }
    return SimpleNamespace(**{**usual, **changes})


def wire(**changes: Any) -> SimpleNamespace:
    usual = {
        "prompt_token_ids": [1, 2, 3],
        "sampling_params": params(),
        "pooling_params": None,
        "mm_features": None,
        "prompt_embeds": None,
        "prompt_is_token_ids": None,
        "resumable": False,
        "abort_immediately": False,
        "lora_request": None,
    }
    return SimpleNamespace(**{**usual, **changes})


def lora(number: int, name: str) -> SimpleNamespace:
    return SimpleNamespace(lora_int_id=number, lora_name=name)


@pytest.mark.parametrize(
    "good",
    [
        wire(),
        wire(mm_features=[]),
        wire(prompt_token_ids=[0, 255]),
        wire(prompt_token_ids=[1] * 79),
        wire(lora_request=lora(1, "a")),
        wire(sampling_params=params(min_tokens=3, all_stop_token_ids={0, 255})),
        wire(sampling_params=params(all_stop_token_ids={256})),  # never an index without min_tokens
        wire(sampling_params=params(bad_words_token_ids=[[1], [999]])),
    ],
)
def test_what_an_engine_can_do_passes(good: SimpleNamespace) -> None:
    LIMITS.check(good, ())


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (wire(sampling_params=None), "text generation"),
        (wire(pooling_params=object()), "text generation"),
        (wire(mm_features=["image"]), "text generation"),
        (wire(prompt_embeds=object()), "embeddings"),
        (wire(prompt_is_token_ids=[True]), "embeddings"),
        (wire(prompt_token_ids=None), "at least one token"),
        (wire(prompt_token_ids=[]), "at least one token"),
        (wire(prompt_token_ids=[1] * 100), "under 100 tokens, given 100"),
        (wire(prompt_token_ids=[1] * 80), "80 tokens do not fit this instance's 20 blocks"),
        (wire(prompt_token_ids=[1, 256]), r"prompt: token ids must be in 0\.\.255"),
        (wire(prompt_token_ids=[-1]), r"prompt: token ids must be in 0\.\.255"),
        (wire(sampling_params=params(min_tokens=1, all_stop_token_ids={256})), "stop_token_ids"),
        (wire(sampling_params=params(min_tokens=1, all_stop_token_ids={-1})), "stop_token_ids"),
        (wire(sampling_params=params(bad_words_token_ids=[[1], []])), "bad_words"),
        (wire(sampling_params=params(logprobs=99)), "99 is above 20"),
    ],
)
def test_what_no_engine_can_do_is_the_clients_fault(bad: SimpleNamespace, reason: str) -> None:
    with pytest.raises(Refused, match=reason) as refused:
        LIMITS.check(bad, ())
    assert refused.value.client_fault


@pytest.mark.parametrize(
    ("bad", "delivered", "reason"),
    [
        (wire(resumable=True), (), "whole requests"),
        (wire(abort_immediately=True), (), "whole requests"),
        (wire(sampling_params=params(max_tokens=None)), (), "max_tokens"),
        (wire(sampling_params=params(max_tokens=2)), (1, 2), "max_tokens: 2 with 2 delivered"),
        (wire(prompt_token_ids=[1] * 60), (1,) * 40, "under 100 tokens, given 100"),
        (wire(), (1, 256), "delivered: token ids"),
        (wire(lora_request=lora(2, "b")), (), "adapter b is not loaded here"),
        (wire(lora_request=lora(1, "b")), (), "adapter b is not loaded here"),
    ],
)
def test_what_only_a_peer_can_have_done_is_not_the_clients_fault(
    bad: SimpleNamespace, delivered: tuple[int, ...], reason: str
) -> None:
    with pytest.raises(Refused, match=reason) as refused:
        LIMITS.check(bad, delivered)
    assert not refused.value.client_fault


def test_a_continued_request_must_fit_with_its_output() -> None:
    LIMITS.check(wire(prompt_token_ids=[1] * 60), (1,) * 19)
    with pytest.raises(Refused, match="80 tokens do not fit"):
        LIMITS.check(wire(prompt_token_ids=[1] * 60), (1,) * 20)
