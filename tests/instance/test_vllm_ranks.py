"""Blocks of an engine with several ranks: the threads here are what worker processes are there."""

from __future__ import annotations

import importlib
import threading
from typing import Any

import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(120)]

RANKS, LAYERS, BLOCKS = 2, 3, 80
SHAPE = (BLOCKS, 2, 4, 8)  # heads of one rank, tokens, head size


@pytest.fixture(scope="module")
def torch() -> Any:
    return importlib.import_module("torch")


@pytest.fixture(scope="module")
def ranks() -> Any:
    return importlib.import_module("shoal.instance.vllm_ranks")


class Engine:
    """The tensors of all ranks, and the copier over them."""

    def __init__(self, torch: Any, ranks: Any, seed: int) -> None:
        blocks = importlib.import_module("shoal.instance.vllm_blocks")
        noise = torch.Generator().manual_seed(seed)
        self.layers = [[torch.randn(SHAPE, generator=noise) for _ in range(LAYERS)] for _ in range(RANKS)]
        self.copiers = [blocks.BlockCopier(own, ranks=RANKS, rank=rank) for rank, own in enumerate(self.layers)]
        self.threads: list[threading.Thread] = []
        self.serve = ranks.serve_blocks
        self.copier = ranks.RankedCopier(self.start, RANKS)

    def start(self, path: str) -> None:
        for copier in self.copiers:
            self.threads.append(threading.Thread(target=self.serve, args=(path, copier)))
            self.threads[-1].start()

    def close(self) -> None:
        self.copier.close()
        for thread in self.threads:
            thread.join(10.0)
            assert not thread.is_alive()


@pytest.fixture
def pair(torch: Any, ranks: Any) -> Any:
    both = [Engine(torch, ranks, seed) for seed in (1, 2)]
    yield both
    for engine in both:
        engine.close()


def test_a_block_is_the_parts_of_all_ranks_and_layers(pair: list[Engine]) -> None:
    a = pair[0]
    assert a.copier.block_bytes == RANKS * LAYERS * 4 * 2 * 4 * 8
    data = bytearray(2 * a.copier.block_bytes)
    a.copier.gather([7, 3], data)
    want = b"".join(layer[block].numpy().tobytes() for block in (7, 3) for own in a.layers for layer in own)
    assert bytes(data) == want


@pytest.mark.parametrize("count", [1, 32, 33, 70])
def test_what_was_gathered_here_is_there_once_scattered(pair: list[Engine], count: int) -> None:
    """More than the staging memory holds, too; and no other block is touched."""
    a, b = pair
    here, there = list(range(5, 5 + count)), list(reversed(range(3, 3 + count)))
    before = [[layer.clone() for layer in own] for own in b.layers]
    data = bytearray(count * a.copier.block_bytes)
    a.copier.gather(here, data)
    b.copier.scatter(there, bytes(data))
    for own, other, was in zip(a.layers, b.layers, before, strict=True):
        for mine, theirs, old in zip(own, other, was, strict=True):
            assert theirs[there].equal(mine[here])
            rest = [block for block in range(BLOCKS) if block not in there]
            assert theirs[rest].equal(old[rest])


def test_several_threads_may_copy_at_once(pair: list[Engine]) -> None:
    a, b = pair
    wrong: list[int] = []

    def copy(block: int) -> None:
        data = bytearray(a.copier.block_bytes)
        for _ in range(20):
            a.copier.gather([block], data)
            b.copier.scatter([block], data)
        if not all(
            theirs[block].equal(mine[block])
            for own, other in zip(a.layers, b.layers, strict=True)
            for mine, theirs in zip(own, other, strict=True)
        ):
            wrong.append(block)

    threads = [threading.Thread(target=copy, args=(block,)) for block in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    assert wrong == []


def test_an_order_that_a_rank_cannot_obey_is_said_and_the_next_one_works(pair: list[Engine], ranks: Any) -> None:
    a, data = pair[0], bytearray(pair[0].copier.block_bytes)
    with pytest.raises(ranks.RanksLost, match="could not"):
        a.copier.gather([BLOCKS + 5], data)
    a.copier.gather([1], data)
    assert bytes(data[:4]) == a.layers[0][0][1].numpy().tobytes()[:4]


def test_after_a_rank_died_every_copy_says_so(torch: Any, ranks: Any) -> None:
    engine = Engine(torch, ranks, 3)
    engine.copier.links[1].shutdown(2)
    for _ in range(2):
        with pytest.raises(ranks.RanksLost):
            engine.copier.gather([1], bytearray(engine.copier.block_bytes))
    engine.close()
