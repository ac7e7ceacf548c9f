"""Moves under faults on a virtual clock: whichever side dies at whichever stage, whatever else happens to the request
meanwhile, the client gets the tokens of an undisturbed run, once each, and nothing is kept anywhere.
"""

import os
from collections import Counter
from random import Random

import pytest

from shoal.proto.failpoints import KNOWN
from tests.tools.virtual_cluster import Fault, World
from tests.tools.virtual_scenario import scenario

SEEDS = os.environ.get("SHOAL_VIRTUAL_SEEDS", "0:30000" if os.environ.get("SHOAL_NIGHTLY") else "0:200")
FIRST, LAST = map(int, SEEDS.split(":"))
PIECES = [range(first, min(first + 1000, LAST)) for first in range(FIRST, LAST, 1000)]  # of seeds
ALL_PAIRS_FROM = 10_000  # runs; fewer may leave a pair of victim and stage out
POINTS = [name for name in KNOWN if name.startswith(("departure.", "arrival.", "handovers."))]
VICTIMS = ["source", "target", "both", "controller", "line", "owner_source", "owner_target", "owner_frozen", "frontend"]


def fault_of(seed: int) -> Fault:
    rng = Random(seed)
    victim, point = VICTIMS[seed % len(VICTIMS)], POINTS[seed // len(VICTIMS) % len(POINTS)]
    return Fault(victim, point, rng.choice([1, 1, 1, 2, 3]), rng.random() < 0.5)


@pytest.fixture(scope="module")
def struck() -> Counter[tuple[str, str]]:
    """How often each victim was struck at each stage, in all pieces."""
    return Counter()


@pytest.mark.timeout(900)  # a busy machine; one that strikes in a callback would look like a failure of the product
@pytest.mark.parametrize("seeds", PIECES, ids=str)
def test_no_fault_at_any_stage_loses_a_token_or_leaks_a_block(seeds: range, struck: Counter[tuple[str, str]]):
    endings: Counter[str] = Counter()
    here: Counter[tuple[str, str]] = Counter()
    for seed in seeds:
        world = World(seed, fault_of(seed), blocks=Random(seed).choice([42, 64, 200]))
        try:
            found = world.run(scenario)
        except BaseException as exc:
            raise AssertionError(f"seed {seed}, {world.fault}: {exc!r}") from exc
        assert not found, f"seed {seed}, {world.fault}: {found}"
        endings += world.endings
        here[world.fault.victim, world.fault.point] += world.struck
    struck.update(here)
    print(f"\n{len(seeds)} runs, endings {dict(endings)}")
    assert endings["committed"] > len(seeds) / 4 and endings["source_gone"] and endings["target_lost"]
    assert {victim for (victim, _), count in here.items() if count} == set(VICTIMS)
    assert {point for (_, point), count in here.items() if count} == set(POINTS)


@pytest.mark.slow
@pytest.mark.skipif(LAST - FIRST < ALL_PAIRS_FROM, reason="too few seeds for all pairs")
def test_each_victim_was_struck_at_each_stage(struck: Counter[tuple[str, str]]):
    print({f"{v}@{p}": n for (v, p), n in sorted(struck.items())})
    assert {(v, p) for v in VICTIMS for p in POINTS} - {pair for pair, count in struck.items() if count} == set()


@pytest.mark.parametrize("seed", range(5))
def test_without_faults_every_move_has_its_one_end(seed):
    world = World(seed, Fault("none", ""))
    assert world.run(scenario) == []
