"""The connector inside real engines on the tiny model: what one computed another loads, to the same tokens."""

from __future__ import annotations

import importlib
import random
from collections.abc import Iterator
from typing import Any

import pytest

from shoal.instance.pool.node import PoolNode, PoolSizes
from shoal.instance.pool.service import PoolService, serve_pool, stop_pool
from tests.instance.pool.pools import TOKEN

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:max_rollback_tokens is deprecated:DeprecationWarning"),
]
BLOCK = 32


def prompt(tokens: int, seed: int) -> list[int]:
    return [random.Random(seed * 7919 + i).randrange(256) for i in range(tokens)]


class Pair:
    """Two engines in this process over one pool."""

    def __init__(self) -> None:
        drive = importlib.import_module("tests.instance.vllm_drive")
        self.drives = [drive.Drive(pool=True) for _ in range(2)]
        sizes = PoolSizes(self.drives[0].engine.block_bytes(), 32, 8)
        self.node = PoolNode("n", sizes, TOKEN)
        self.service = PoolService(self.node, TOKEN)
        address, self.server = serve_pool(self.service, "127.0.0.1")
        for one in self.drives:
            one.engine.attach_pool(address, TOKEN, weights="w")

    def load_always(self, on: bool = True) -> None:
        """Make fetching look free, or impossible, so that a test decides and not a noisy machine."""
        for one in self.drives:
            speeds = one.engine.scheduler.connector.scheduler.speeds
            speeds.saw_step = speeds_ignore = lambda *_: None  # noqa: F841
            speeds.b_ms = 100.0 if on else 0.0

    def close(self) -> None:
        for one in self.drives:
            one.engine.shutdown()
        stop_pool(self.service, self.server)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        made = Pair()
        yield made
        made.close()


def loads(drive: Any) -> int:
    return drive.engine.scheduler.connector.scheduler.sightings.reused


def test_what_one_engine_computed_another_loads_to_the_same_tokens(pair: Pair) -> None:
    one, two = pair.drives
    for seed, sampling in enumerate([{"temperature": 0}, {"seed": 7, "presence_penalty": 0.5}]):
        for tokens in (BLOCK * 4 + 5, BLOCK * 8, 700):
            wire = one.wire(prompt(tokens, seed), max_tokens=12, ignore_eos=True, **sampling)
            cold = one.run(wire)
            before = loads(two)
            warm = two.run(wire)
            assert warm.tokens == cold.tokens
            assert loads(two) > before
    assert one.all_free() and two.all_free()
