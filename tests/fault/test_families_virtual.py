"""Families of faults on a virtual clock, besides those of moves: each run has clients, random moves and a fault of its
family at a random time; whatever it is, the client gets the tokens of an undisturbed run, once each, and nothing stays.

docs/faults.md says which number of the fault list each family is.
"""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable

import pytest

from shoal.cluster.request_context import RequestContext
from shoal.instance.fake_tokens import reply
from shoal.proto.errors import InvalidArgument
from shoal.proto.v1 import instance_pb2 as pb
from tests.tools.mini_cluster import Reply
from tests.tools.virtual_cluster import Fault, VirtualFrontend, VirtualLink, World
from tests.tools.virtual_scenario import scenario

SEEDS = os.environ.get("SHOAL_VIRTUAL_SEEDS", "0:1000" if os.environ.get("SHOAL_NIGHTLY") else "0:8")
FIRST, LAST = map(int, SEEDS.split(":"))
LATEST_S = 0.8  # most runs are over by then

Family = Callable[[World], Awaitable[list[str]]]


def struck(world: World) -> None:
    world.struck = True


async def some_time(world: World) -> None:
    await asyncio.sleep(world.rng.uniform(0.0, LATEST_S))


async def instance_killed(world: World) -> list[str]:
    """At whatever point of decoding."""
    await some_time(world)
    world.kill(world.rng.choice(world.names))
    struck(world)
    return []


async def two_killed_in_turn(world: World) -> list[str]:
    for name in world.rng.sample(world.names, 2):
        await some_time(world)
        world.kill(name)
    struck(world)
    return []


async def instance_cut_off(world: World) -> list[str]:
    """Frozen or partitioned: silent, fenced, back with late words."""
    await some_time(world)
    world.cut_owner(world.rng.choice(world.names), silent=world.rng.random() < 0.7)
    struck(world)
    await asyncio.sleep(3.0)
    return []


async def former_words_repeated(world: World) -> list[str]:
    """Frames of the past come again, as from a zombie or a network that duplicates: of old epochs and old indexes."""
    said: list[tuple[str, pb.Down]] = []
    dispatcher = world.frontend.dispatcher

    def tapped(link: VirtualLink, frame: pb.Down) -> None:
        if frame.WhichOneof("frame") == "report" and frame.report.outputs:
            said.append((link.instance_id, frame))
        dispatcher.on_frame(link, frame)

    for _ in range(world.rng.randint(3, 10)):
        for link in world.links:
            link.on_frame = tapped
        await asyncio.sleep(world.rng.uniform(0.0, LATEST_S / 4))
        if world.rng.random() < 0.2:
            world.cut_owner(world.rng.choice(world.names), silent=False)
        for name, frame in world.rng.sample(said, min(3, len(said))):
            if name in dispatcher.links:
                dispatcher.on_frame(dispatcher.links[name], frame)
                struck(world)
    return []


def frontend_replaced(world: World) -> Family:
    """Another adopts what the lost one's clients ask for, and replays it from the start."""
    world.patient_share = 1.0
    return adopt_all


async def adopt_all(world: World) -> list[str]:
    await some_time(world)
    lost = world.frontend
    lost.die()
    await asyncio.sleep(world.rng.uniform(0.01, 2.0))
    heir = VirtualFrontend(world, "f1")
    for instance in world.instances.values():
        heir.connect(instance)
    await asyncio.sleep(0.01)
    found = []
    for request_id, former in lost.replies.items():
        links = list(heir.dispatcher.links.values())
        orphan = await heir.dispatcher.inquiries.find_orphan(links, request_id, "t", 1.0)
        if orphan is None or former.done.is_set():
            continue
        adopted = heir.claim(*orphan, f"{request_id}-again", former.prompt)
        struck(world)
        async with asyncio.timeout(60):
            await adopted.done.wait()
        if adopted.error is not None or adopted.tokens != reply(former.prompt, len(adopted.tokens), 256):
            found.append(f"P1 {request_id} adopted: {adopted.error} {adopted.tokens}")
        if adopted.tokens[: len(former.tokens)] != former.tokens:
            found.append(f"P1 {request_id}: the heir says {adopted.tokens}, its client has {former.tokens}")
    heir.check_empty()
    heir.die()
    return found


async def clients_drop(world: World) -> list[str]:
    """Everybody leaves, each at its own time."""
    await asyncio.sleep(world.rng.uniform(0.0, LATEST_S / 4))
    for request_id, one in list(world.frontend.replies.items()):
        await asyncio.sleep(world.rng.uniform(0.0, LATEST_S / 8))
        if not one.done.is_set():
            world.frontend.dispatcher.abort([request_id])
            one.done.set()
            struck(world)
    return []


async def same_id_and_odd_cancels(world: World) -> list[str]:
    """A second request of a name in use is refused; cancelling what is unknown or over does nothing."""
    found, frontend = [], world.frontend
    world.may_refuse = True
    for number in range(5):
        await asyncio.sleep(world.rng.uniform(0.0, LATEST_S / 4))
        frontend.dispatcher.abort(["never", *(name for name, one in frontend.replies.items() if one.done.is_set())])
        running = [name for name, one in frontend.replies.items() if not one.done.is_set()]
        if running:
            twin = frontend.replies[f"twin{number}"] = Reply([], RequestContext(request_id=running[0], tenant=""))
            twin.done.set()
            with contextlib.suppress(InvalidArgument):
                await frontend.dispatcher.submit(frontend.ticket(running[0], [1, 2, 3], 5), twin.context)
                found.append(f"P6 {running[0]} runs twice")
            struck(world)
    return found


def clocks_disagree(world: World) -> Family:
    """Hours apart, and up to a tenth faster or slower: nobody compares one's clock with another's."""
    world.skews = {name: (world.rng.uniform(0.9, 1.1), world.rng.uniform(3600.0, 7200.0)) for name in world.names}
    return instance_cut_off if world.rng.random() < 0.3 else moves_go_on


def lines_are_slow(world: World) -> Family:
    """A fifth of a second each way between instances: moves give up in time, or are worth it."""
    world.line_wait_s = (0.1, 0.3)
    return moves_go_on


async def moves_go_on(world: World) -> list[str]:
    await asyncio.sleep(LATEST_S)
    if world.asked:
        struck(world)
    return []


FAMILIES: dict[str, Family | Callable[[World], Family]] = {
    one.__name__: one
    for one in (
        instance_killed,
        two_killed_in_turn,
        instance_cut_off,
        former_words_repeated,
        frontend_replaced,
        clients_drop,
        same_id_and_odd_cancels,
        clocks_disagree,
        lines_are_slow,
    )
}


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", FAMILIES)
def test_no_fault_of_the_family_loses_a_token_or_leaks_a_block(name):
    effects = 0
    for seed in range(FIRST, LAST):
        world = World(seed, Fault("family", ""), blocks=(42, 64, 200)[seed % 3])
        family = FAMILIES[name]
        act = family if asyncio.iscoroutinefunction(family) else family(world)
        try:
            found = world.run(lambda world, act=act: scenario(world, act))
        except BaseException as exc:
            raise AssertionError(f"{name}, seed {seed}: {exc!r}") from exc
        assert not found, f"{name}, seed {seed}: {found}"
        effects += world.struck
    print(f"\n{name}: seeds {SEEDS}, {effects} with an effect")
    assert effects >= (LAST - FIRST) / 2, "most of these faults had no effect"
