"""The faults of the campaign. Each is a context: it has struck when entered, is over when left, and then its `Strike`
says whether it took effect, by what the kernel or the proxy counted, not by what was asked of them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from random import Random
from typing import Any

from shoal.bench.chaos_cluster import WORD_S, ChaosCluster
from shoal.bench.fault_proxy import Faults
from shoal.bench.processes import process_state
from shoal.proto.errors import ServerFault, ShoalError
from shoal.proto.failpoints import KNOWN

GONE, STOPPED = ("", "Z", "X"), ("T",)
EFFECT_WITHIN_S = 2.0
MOVE_POINTS = tuple(name for name in KNOWN if name.startswith(("departure.", "arrival.")))


@dataclass(slots=True)
class Strike:
    """`heard`: frontends must count a lost stream for it."""

    victim: str
    at_s: float
    proved: bool = False
    heard: bool = True


Fault = Callable[[ChaosCluster, Random], AbstractAsyncContextManager[Strike]]


async def _seen(pid: int, states: tuple[str, ...]) -> bool:
    end_s = time.perf_counter() + EFFECT_WITHIN_S
    while process_state(pid) not in states:
        if time.perf_counter() > end_s:
            return False
        await asyncio.sleep(0.001)
    return True


async def _signal(pid: int, number: signal.Signals) -> Strike:
    strike = Strike("", time.perf_counter())
    os.kill(pid, number)
    strike.proved = await _seen(pid, STOPPED if number is signal.SIGSTOP else GONE)
    return strike


@asynccontextmanager
async def instance_killed(cluster: ChaosCluster, rng: Random) -> AsyncIterator[Strike]:
    name = rng.choice(sorted(cluster.instances))
    strike = await _signal(cluster.instances[name].pid, signal.SIGKILL)
    strike.victim = name
    yield strike


@asynccontextmanager
async def instance_frozen(cluster: ChaosCluster, rng: Random) -> AsyncIterator[Strike]:
    name = rng.choice(sorted(cluster.instances))
    pid = cluster.instances[name].pid
    try:
        strike = await _signal(pid, signal.SIGSTOP)
        strike.victim = name
        yield strike
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@asynccontextmanager
async def frontend_killed(cluster: ChaosCluster, rng: Random) -> AsyncIterator[Strike]:
    frontend = rng.choice(cluster.front)
    strike = await _signal(frontend.host.pid, signal.SIGKILL)
    strike.victim, strike.heard = f"f{frontend.number}", False  # it cannot count its own end
    yield strike
    await frontend.end()
    await frontend.start()


@asynccontextmanager
async def frontend_frozen(cluster: ChaosCluster, rng: Random) -> AsyncIterator[Strike]:
    frontend = rng.choice(cluster.front)
    pid = frontend.host.pid
    try:
        strike = await _signal(pid, signal.SIGSTOP)
        strike.victim, strike.heard = f"f{frontend.number}", False
        yield strike
    finally:
        os.kill(pid, signal.SIGCONT)


@asynccontextmanager
async def controller_lost(cluster: ChaosCluster, rng: Random) -> AsyncIterator[Strike]:
    """It lives in the bench's process: its listener closes, its streams end without a word, a new one takes over."""
    strike = Strike("controller", time.perf_counter(), heard=False)
    await cluster.lose_controller()
    host, _, port = cluster.address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
        writer.close()
    except OSError:
        strike.proved = True
    yield strike
    await cluster.start_controller()


@asynccontextmanager
async def link_hurt(
    cluster: ChaosCluster, rng: Random, *, faults: Faults, count: str, heard: bool = False
) -> AsyncIterator[Strike]:
    """All that is said to one instance, or all that it says; `count` of the proxy must grow. `heard`: what it says, the
    loss of which no frontend can miss.
    """
    name = rng.choice(sorted(cluster.instances))
    proxy = cluster.proxies[name]
    link = proxy.down if heard else rng.choice([proxy.up, proxy.down])
    before: Any = getattr(link.counts, count)
    link.faults = Faults(**asdict(faults))
    strike = Strike(name, time.perf_counter(), heard=heard)
    yield strike
    link.faults = Faults()
    strike.proved = getattr(link.counts, count) > before


@asynccontextmanager
async def move_struck(cluster: ChaosCluster, rng: Random, *, action: str) -> AsyncIterator[Strike]:
    """A request is moved by hand, and one side dies, or is held up, at a stage of it."""
    point = rng.choice(MOVE_POINTS)
    source, target, request_id = await _movable(cluster, rng)
    name = source if point.startswith("departure.") else target
    process = cluster.instances[name]
    assert process.host is not None
    await process.host.ask(f"arm {point} {action}@1", WORD_S)
    strike = Strike(f"{name} at {point}", time.perf_counter(), heard=action.startswith("exit"))
    with suppress(ShoalError):
        cluster.controller.planner.begin_by_hand(request_id, target)
    yield strike
    if action.startswith("exit"):
        strike.proved = process.host.process.returncode == 9
    else:
        strike.proved = (await process.host.ask(f"hits {point}", WORD_S))["hits"] > 0
    if not strike.proved:  # whatever passes there next must not be hit in a later round
        await process.host.ask(f"arm {point} delay:0", WORD_S)
        strike.heard = False


async def _movable(cluster: ChaosCluster, rng: Random) -> tuple[str, str, str]:
    end_s = time.monotonic() + EFFECT_WITHIN_S
    while time.monotonic() < end_s:
        sights = cluster.controller.planner.sights
        found = [(name, one.request_id) for name, sight in sights.items() for one in sight.residents]
        if found and len(sights) > 1:
            source, request_id = rng.choice(found)
            return source, rng.choice(sorted(set(sights) - {source})), request_id
        await asyncio.sleep(0.02)
    raise ServerFault("nothing runs that could be moved")


FAULTS: dict[str, Fault] = {
    "instance_killed": instance_killed,
    "instance_frozen": instance_frozen,
    "frontend_killed": frontend_killed,
    "frontend_frozen": frontend_frozen,
    "controller_lost": controller_lost,
    "side_of_move_dies": partial(move_struck, action="exit:9"),
    "side_of_move_waits": partial(move_struck, action="delay:1"),
    "link_delayed": partial(link_hurt, faults=Faults(delay_s=0.2), count="delayed_chunks"),
    "link_slow": partial(link_hurt, faults=Faults(rate_bytes_per_s=20_000), count="throttled_s"),
    "link_flips": partial(link_hurt, faults=Faults(flip_one_in_bytes=500), count="flipped_bytes"),
    "link_truncated": partial(link_hurt, faults=Faults(truncate_after_bytes=1), count="truncated", heard=True),
    "link_reset": partial(link_hurt, faults=Faults(reset_after_bytes=1), count="resets", heard=True),
    "link_duplicates": partial(link_hurt, faults=Faults(duplicate_one_in_chunks=3), count="duplicated_chunks"),
    "link_black_hole": partial(link_hurt, faults=Faults(black_hole=True), count="swallowed_bytes", heard=True),
}

__all__ = ["FAULTS", "Fault", "Strike"]
