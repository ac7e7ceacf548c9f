"""One run on the virtual cluster: clients, moves, and what must hold in the end."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from shoal.bench.oracle import Stream, check_outcomes, check_tokens, check_whole
from shoal.cluster.journal import Outcome
from shoal.instance.fake_tokens import reply
from shoal.instance.migration.words import Ending
from shoal.proto.errors import ShoalError
from tests.tools.virtual_cluster import World

QUIET_S = 40.0  # virtual: longer than what is resumable is kept
ENDS = {Outcome.LENGTH.value, Outcome.ABORTED.value, Outcome.QUARANTINED.value}


async def scenario(world: World, also: Callable[[World], Awaitable[list[str]]] | None = None) -> list[str]:
    """Requests come, are moved at random, some are aborted; then all must be as the oracle says. `also` happens
    meanwhile, and says what it found.
    """
    world.start()
    beside = asyncio.ensure_future(also(world)) if also is not None else None
    rng, frontend = world.rng, world.frontend
    told: dict[str, list[str]] = {}
    lengths: dict[str, int] = {}

    async def client(number: int) -> None:
        request_id = f"r{number}"
        await asyncio.sleep(rng.uniform(0.0, 0.1))
        tokens = lengths[request_id] = rng.choice([1, 10, 60, 80, 100])
        prompt = [number, *(rng.randrange(256) for _ in range(rng.choice([0, 3, 11, 30, 50])))]
        resumable = {"resume_key": request_id, "tenant": "t"} if patient and rng.random() < 0.5 else {}
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
    patient = rng.random() < world.patient_share  # an orphan that waits for an adopter takes 30 s
    runs = asyncio.gather(*(client(n) for n in range(clients)), controller())
    while not runs.done() and frontend.alive:
        await asyncio.sleep(0.1)
        world.hear()
    if not frontend.alive:
        runs.cancel()
    found = await beside if beside is not None else []
    end_s = world.loop.time() + QUIET_S
    while world.loop.time() < end_s and (left := [line for i in world.instances.values() for line in i.leaks()]):
        await asyncio.sleep(0.25)
        world.hear()
    return [*found, *left, *_judge(world, lengths)]


def _judge(world: World, lengths: dict[str, int]) -> list[str]:
    frontend, journal = world.frontend, world.frontend.dispatcher.journal
    seen = {r: Stream(list(enumerate(one.tokens))) for r, one in frontend.replies.items()}
    reference = {r: reply(one.prompt, lengths.get(r, 0), 256) for r, one in frontend.replies.items()}
    found = check_tokens(seen, reference)
    if frontend.alive:
        frontend.check_empty()
        ended = {r: one for r, one in frontend.replies.items() if one.finish_reason is not None}
        found += check_whole({r: seen[r] for r in ended}, reference)
        outcomes = frontend.outcomes()
        ends = ENDS | ({Outcome.REFUSED.value} if world.may_refuse else set())
        names = {f"n{n}": o.value for n, o in enumerate(o for o, c in outcomes.items() for _ in range(c))}
        found += check_outcomes({n: Stream([], [o]) for n, o in names.items()}, names, ends)
        if outcomes.get(Outcome.QUARANTINED, 0) and world.crashes < 2:
            found.append(f"P6 {outcomes} after {world.crashes} crashes")
        assert sum(journal.outcomes.values()) == len(frontend.replies)
    found += [f"ending {name} is not on the list" for name in world.endings if name not in {e.value for e in Ending}]
    everybody = all(i.alive for i in world.instances.values()) and world.controller_alive and frontend.alive
    if everybody and world.fault.victim in ("line", "none") and sum(world.endings.values()) != world.asked:
        found.append(f"{world.asked} moves were asked for, {world.endings} ended")
    return found


__all__ = ["ENDS", "QUIET_S", "scenario"]
