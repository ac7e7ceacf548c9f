"""Hundreds of moves of all kinds of requests, among others, at any token: each says what it says undisturbed."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.instance.vllm_pair import Pair

pytestmark = [
    pytest.mark.slow,
    pytest.mark.vllm,
    pytest.mark.timeout(3000),
    pytest.mark.filterwarnings("ignore:max_rollback_tokens is deprecated:DeprecationWarning"),
]
SIZES = {"max_model_len": 16_384, "max_num_batched_tokens": 2048, "kv_cache_bytes": 3 << 29, "max_num_seqs": 16}


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        pair = importlib.import_module("tests.instance.vllm_pair").Pair(**SIZES)
        yield pair
        pair.shutdown()


@pytest.mark.parametrize("seed", range(6))
def test_whoever_moves_says_the_same_and_leaves_nothing(pair: Pair, seed: int) -> None:
    storm = importlib.import_module("tests.instance.vllm_storm").Storm(pair, seed)
    storm.run(moves=50)
    print(storm.summary())
    assert pair.leftovers() == []
    assert storm.differences() == []
    assert pair.leftovers() == []
