"""A request moves between two engines of two ranks each, whose workers are processes, and says what it says alone."""

from __future__ import annotations

import importlib
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.instance.vllm_pair import Pair

pytestmark = [
    pytest.mark.slow,
    pytest.mark.vllm,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:max_rollback_tokens is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
]
KINDS = ["greedy", "seeded with penalties", "logprobs", "json"]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        pair = importlib.import_module("tests.instance.vllm_pair").Pair(tensor_parallel_size=2, kv_cache_bytes=1 << 27)
        yield pair
        pair.shutdown()


def prompt(tokens: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(256) for _ in range(tokens)]


def test_both_move_blocks_of_all_ranks(pair: Pair) -> None:
    movers = [drive.engine.mover for drive in (pair.a, pair.b)]
    assert [mover.never for mover in movers] == ["", ""]
    assert movers[0].fingerprint == movers[1].fingerprint
    assert movers[0].block_bytes == 8 * 4 * 32 * 128 * 4  # layers, heads of both ranks, tokens, K and V, float32


@pytest.mark.parametrize("kind", KINDS)
def test_a_moved_request_says_what_the_undisturbed_one_says(pair: Pair, kind: str) -> None:
    difference = importlib.import_module("tests.instance.vllm_storm").difference
    wire = pair.a.wire_of_kind(kind, prompt(500, 1), max_tokens=60)
    want = pair.a.run(wire)
    started = pair.a.start(wire)
    pair.a.step_until(started, 9)
    there = pair.hand_over(pair.a, started, wire)
    pair.b.step_until(there, len(pair.b.heard[there].tokens) + 5)
    pair.hand_over(pair.b, there, wire)
    pair.finish()
    assert difference(pair.a.heard[started], want) == ""
    assert len(want.tokens) > 20
    assert pair.leftovers() == []


def test_a_prompt_that_is_half_computed_moves_too(pair: Pair) -> None:
    wire = pair.a.wire_of_kind("greedy", prompt(1500, 2), max_tokens=20)
    started = pair.a.start(wire)
    for _ in range(2):
        pair.a.step()
    move = pair.move(pair.a, started, wire, stages=1)
    for _said in move:
        pass
    assert move.state is not None and move.state.computed_tokens == 512
    move.commit()
    pair.finish()
    assert pair.a.heard[started].tokens == pair.a.run(wire).tokens
    assert pair.leftovers() == []
