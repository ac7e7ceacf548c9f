"""The connector inside a real engine on the tiny model: what it computed it finds again after its own cache is gone, to
the same tokens; whatever goes wrong with the pool is recomputed.
"""

from __future__ import annotations

import importlib
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest

from shoal.instance.kv_connector_policy import Speeds
from shoal.instance.pool.node import PoolNode, PoolSizes
from shoal.instance.pool.service import PoolService, serve_pool, stop_pool
from tests.instance.pool.pools import TOKEN

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:max_rollback_tokens is deprecated:DeprecationWarning"),
]
BLOCK = 32
SAMPLING = [{"temperature": 0}, {"seed": 7, "presence_penalty": 0.5}]


def prompt(tokens: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(256) for _ in range(tokens)]


class FetchAlways(Speeds):
    """However slow this machine is, computing looks slower."""

    def compute_ms(self, tokens: int, *, budget_tokens: int) -> float:
        return float("inf")


class Pooled:
    """One engine with a pool beside it. vLLM keeps one connector per process, so there cannot be two here."""

    def __init__(self) -> None:
        self.drive = importlib.import_module("tests.instance.vllm_drive").Drive(pool=True)
        engine = self.drive.engine
        self.node = PoolNode("n", PoolSizes(engine.block_bytes(), 32, 8), TOKEN)
        self.service = PoolService(self.node, TOKEN)
        address, self.server = serve_pool(self.service, "127.0.0.1")
        engine.attach_pool(address, TOKEN, weights="w")
        self.half = engine.scheduler.connector.scheduler
        self.half.speeds = FetchAlways()

    def wire(self, tokens: int, content: int = 0, salt: str | None = None, **sampling: Any) -> bytes:
        sampling = {"max_tokens": 12, "ignore_eos": True, **(sampling or SAMPLING[0])}
        return self.drive.wire(prompt(tokens, content), changes={"cache_salt": salt}, **sampling)

    def forget(self) -> None:
        """Empties the engine's own cache, as a restart would."""
        end_s = time.monotonic() + 60.0
        while not self.drive.engine.call("reset_prefix_cache", {}):
            assert time.monotonic() < end_s, "blocks are still held"

    def reused(self) -> int:
        return self.half.sightings.reused

    def close(self) -> None:
        self.drive.engine.shutdown()
        stop_pool(self.service, self.server)


@pytest.fixture(scope="module")
def pooled() -> Iterator[Pooled]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        made = Pooled()
        for limit in ("kv_connector.MATCH_S", "kv_connector_worker.LOAD_S", "kv_connector_worker.SAVE_S"):
            patch.setattr(f"shoal.instance.{limit}", 60.0)  # however slow this machine is, nothing is too late
        yield made
        made.close()


@pytest.fixture(autouse=True)
def nothing_is_left_behind(pooled: Pooled) -> Iterator[None]:
    yield
    assert pooled.drive.all_free()
    assert pooled.half.held == {} and pooled.half.loading == {}
    assert set(pooled.node.ledger.leases) == {"probe"}


@pytest.mark.parametrize("sampling", SAMPLING, ids=["greedy", "seeded"])
@pytest.mark.parametrize("tokens", [BLOCK * 4 + 5, BLOCK * 8, 700])
def test_a_cold_engine_loads_what_was_saved_and_says_the_same(pooled: Pooled, tokens: int, sampling: Any) -> None:
    wire = pooled.wire(tokens, content=tokens, **sampling)
    cold = pooled.drive.run(wire)
    pooled.forget()
    before = pooled.reused()
    assert pooled.drive.run(wire).tokens == cold.tokens
    assert pooled.reused() - before == tokens // BLOCK
    pooled.forget()


def test_what_was_generated_is_found_by_the_next_turn(pooled: Pooled) -> None:
    first = pooled.drive.run(pooled.wire(64, content=5, temperature=0, max_tokens=100))
    turn = prompt(64, 5) + first.tokens
    pooled.forget()
    before = pooled.reused()
    pooled.drive.run(pooled.drive.wire(turn, max_tokens=2, temperature=0))
    assert pooled.reused() - before == (64 + 100 - 1) // BLOCK
    pooled.forget()


def test_another_tenants_prompt_finds_nothing(pooled: Pooled) -> None:
    mine = pooled.drive.run(pooled.wire(200, content=9, salt="a"))
    pooled.forget()
    before = pooled.reused()
    assert pooled.drive.run(pooled.wire(200, content=9, salt="b")).tokens == mine.tokens
    assert pooled.reused() == before
    assert pooled.drive.run(pooled.wire(200, content=9, salt="a")).tokens == mine.tokens
    pooled.forget()


def test_damaged_blocks_are_recomputed_to_the_same_tokens(pooled: Pooled) -> None:
    wire = pooled.wire(300, content=11)
    cold = pooled.drive.run(wire)
    pooled.forget()
    with pooled.node.lock:
        ledger = pooled.node.ledger
        for number, slot in enumerate(ledger.index.values()):
            place = ledger.slots.place(slot)
            if number % 3 == 1:
                pooled.node.segment(place).slot(place.index)[number] ^= 16
    assert pooled.drive.run(wire).tokens == cold.tokens
    pooled.forget()


def test_a_pool_that_died_costs_a_recomputation_and_nothing_else(pooled: Pooled) -> None:
    wire = pooled.wire(300, content=12)
    cold = pooled.drive.run(wire)
    pooled.forget()
    real = pooled.node.lease
    pooled.node.lease = lambda *_, **__: 1 / 0  # found by a match, gone at the lease
    try:
        assert pooled.drive.run(wire).tokens == cold.tokens
    finally:
        pooled.node.lease = real
    pooled.forget()


def test_many_requests_at_once_share_and_leave_nothing(pooled: Pooled) -> None:
    wires = [pooled.wire(40 + 17 * n, content=n % 4) for n in range(12)]
    cold = [heard.tokens for heard in pooled.drive.finish(*[pooled.drive.start(wire) for wire in wires])]
    pooled.forget()
    warm = [heard.tokens for heard in pooled.drive.finish(*[pooled.drive.start(wire) for wire in wires])]
    assert warm == cold
    pooled.forget()


def test_an_abort_during_a_load_gives_every_block_back(pooled: Pooled) -> None:
    wire = pooled.wire(700, content=21)
    pooled.drive.run(wire)
    pooled.forget()
    engine_id = pooled.drive.start(wire)
    while not pooled.half.loading:
        pooled.drive.step()
    pooled.drive.engine.abort([engine_id])
    pooled.drive.finish()
    pooled.forget()
