"""Moves under faults on a virtual clock: whichever side dies at whichever stage, whatever else happens to the request
meanwhile, the client gets the tokens of an undisturbed run, once each, and nothing is kept anywhere.
"""

import asyncio
import contextlib
import os
from collections import Counter
from random import Random

import pytest

from shoal.cluster.journal import Outcome
from shoal.instance.fake_tokens import reply
from shoal.instance.migration.words import Ending
from shoal.proto.errors import ShoalError
from shoal.proto.failpoints import KNOWN
from tests.tools.oracle import Stream, check_outcomes, check_tokens, check_whole
from tests.tools.virtual_cluster import Fault, World

SEEDS = os.environ.get("SHOAL_VIRTUAL_SEEDS", "0:30000" if os.environ.get("SHOAL_NIGHTLY") else "0:200")
FIRST, LAST = map(int, SEEDS.split(":"))
PIECES = [range(first, min(first + 1000, LAST)) for first in range(FIRST, LAST, 1000)]  # of seeds
ALL_PAIRS_FROM = 10_000  # runs; fewer may leave a pair of victim and stage out
POINTS = [name for name in KNOWN if name.startswith(("departure.", "arrival.", "handovers."))]
VICTIMS = ["source", "target", "both", "controller", "line", "owner_source", "owner_target", "owner_frozen", "frontend"]
QUIET_S = 40.0  # virtual: longer than what is resumable is kept
ENDS = {Outcome.LENGTH.value, Outcome.ABORTED.value, Outcome.QUARANTINED.value}


def fault_of(seed: int) -> Fault:
    rng = Random(seed)
    victim, point = VICTIMS[seed % len(VICTIMS)], POINTS[seed // len(VICTIMS) % len(POINTS)]
    return Fault(victim, point, rng.choice([1, 1, 1, 2, 3]), rng.random() < 0.5)


async def scenario(world: World) -> list[str]:
    """Requests come, are moved at random, some are aborted; then all must be as the oracle says."""
    world.start()
    rng, frontend = world.rng, world.frontend
    told: dict[str, list[str]] = {}
    lengths: dict[str, int] = {}

    async def client(number: int) -> None:
        request_id = f"r{number}"
        await asyncio.sleep(rng.uniform(0.0, 0.1))
        tokens = lengths[request_id] = rng.choice([1, 10, 60, 80, 100])
        prompt = [number, *(rng.randrange(256) for _ in range(rng.choice([0, 3, 11, 30, 50])))]
        resumable = {"resume_key": request_id} if patient and rng.random() < 0.5 else {}
        run = asyncio.ensure_future(frontend.run(request_id, prompt, tokens, **resumable))
        if rng.random() < 0.2:
            await asyncio.sleep(rng.uniform(0.0, 0.4))
            frontend.dispatcher.abort([request_id])
            frontend.replies[request_id].done.set()
        with contextlib.suppress(ShoalError, TimeoutError):
            await run
        told.setdefault(request_id, [])

    async def controller() -> None:
        for _ in range(rng.randint(4, 16)):
            await asyncio.sleep(rng.expovariate(30.0))
            world.move(f"r{rng.randrange(clients)}", rng.choice(world.names))

    clients = rng.randint(1, 6)
    patient = rng.random() < 0.15  # an orphan that waits for an adopter takes 30 s
    runs = asyncio.gather(*(client(n) for n in range(clients)), controller())
    while not runs.done() and frontend.alive:
        await asyncio.sleep(0.1)
        world.hear()
    if not frontend.alive:
        runs.cancel()
    end_s = world.loop.time() + QUIET_S
    while world.loop.time() < end_s and (left := [line for i in world.instances.values() for line in i.leaks()]):
        await asyncio.sleep(0.25)
        world.hear()
    return [*left, *_judge(world, lengths)]


def _judge(world: World, lengths: dict[str, int]) -> list[str]:
    frontend, journal = world.frontend, world.frontend.dispatcher.journal
    seen = {r: Stream(list(enumerate(one.tokens))) for r, one in frontend.replies.items()}
    reference = {r: reply(one.prompt, lengths[r], 256) for r, one in frontend.replies.items()}
    found = check_tokens(seen, reference)
    if frontend.alive:
        frontend.check_empty()
        ended = {r: one for r, one in frontend.replies.items() if one.finish_reason is not None}
        found += check_whole({r: seen[r] for r in ended}, reference)
        outcomes = frontend.outcomes()
        names = {f"n{n}": o.value for n, o in enumerate(o for o, c in outcomes.items() for _ in range(c))}
        found += check_outcomes({n: Stream([], [o]) for n, o in names.items()}, names, ENDS)
        if outcomes.get(Outcome.QUARANTINED, 0) and world.crashes < 2:
            found.append(f"P6 {outcomes} after {world.crashes} crashes")
        assert sum(journal.outcomes.values()) == len(frontend.replies)
    found += [f"ending {name} is not on the list" for name in world.endings if name not in {e.value for e in Ending}]
    everybody = all(i.alive for i in world.instances.values()) and world.controller_alive and frontend.alive
    if everybody and world.fault.victim in ("line", "none") and sum(world.endings.values()) != world.asked:
        found.append(f"{world.asked} moves were asked for, {world.endings} ended")
    return found


@pytest.fixture(scope="module")
def struck() -> Counter[tuple[str, str]]:
    """How often each victim was struck at each stage, in all pieces."""
    return Counter()


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
