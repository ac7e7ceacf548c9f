"""Three instances in processes of their own and one frontend: moves between two of them while whoever takes part is
killed or cut off. Over fake engines, or over real ones.
"""

import asyncio
import importlib
import itertools
import os
import signal
import threading
from collections import defaultdict
from random import Random

from shoal.bench.fault_proxy import FaultProxy
from shoal.bench.processes import process_state
from shoal.bench.static_controller import StaticController
from shoal.instance.engine_factory import import_engine
from shoal.instance.fake_tokens import reply
from shoal.instance.tiny_model import ensure_tiny_model
from shoal.proto import failpoints
from shoal.proto.codec import FINISH_LENGTH
from shoal.proto.config import parse_config
from shoal.proto.v1 import instance_pb2 as pb
from tests.instance.peer import Peer
from tests.tools.host_process import GONE, ForkedHost, Host, host_config
from tests.tools.mini_cluster import TOKEN, VOCABULARY, MiniFrontend, eventually

VICTIMS = ("source", "target", "both", "controller", "link")
POINTS = tuple(name for name in failpoints.KNOWN if name.startswith(("departure.", "arrival.", "handovers.")))
PAUSED = ("departure.prepare", "departure.hand_over", "arrival.hold", "arrival.prepared")
CONFIG = host_config(a_ms=4.0, block_bytes=4096)
HELD_S, STRIKE_S = 0.6, 0.3  # the move stays at the point for so long, and is struck so long after it was asked for
TOKENS, BEFORE = 300, 20
LIMIT_S = {"target": 0.1, "source": 2.5, "both": 2.5, "controller": 2.5, "link": 2.5}


def fake_says(prompt, tokens):
    return reply(prompt, tokens, VOCABULARY)


class Trio:
    """Three instances that hold at `point` (empty: nowhere), each behind a proxy for its peers; a frontend; a planner's
    ear on each.
    `says`: what an undisturbed client gets, by prompt and number of tokens; None: it is asked for, once each.
    """

    def __init__(self, point: str, *, config=CONFIG, says=fake_says, start_s=30.0, host=Host, **frontend) -> None:
        self.config, self.says, self.start_s, self.frontend_settings = config, says, start_s, frontend
        self.heard, self.host = {}, host
        self.wanted = {}  # role and state, by name; without: mixed and ready
        self.in_frontend = point.startswith("handovers.")
        self.failpoints = "" if self.in_frontend or not point else f"{point}=delay:{HELD_S}"

    async def __aenter__(self):
        self.controller = StaticController()
        self.controller_address = await self.controller.start()
        self.hosts, self.proxies, self.planners = {}, {}, {}
        await asyncio.gather(*(self._start(number, 1) for number in range(3)))
        await self.publish()
        self.frontend = MiniFrontend(self, "f0", **self.frontend_settings)
        await self._linked()
        return self

    async def _start(self, number, incarnation):
        host = await self.host(number, incarnation, config=self.config, failpoints=self.failpoints).start()
        self.hosts[host.name] = host
        self.proxies[host.name] = await FaultProxy("127.0.0.1", int(host.address.rpartition(":")[2])).__aenter__()
        await self._listen(host)

    async def _listen(self, host):
        planner = self.planners[host.name] = await Peer(
            host.address, "controller", token=TOKEN, version=""
        ).__aenter__()
        await planner.until(lambda: bool(planner.frames))

    async def publish(self):
        members = [host.member() for host in self.hosts.values()]
        for member in members:
            member.role, member.state = self.wanted.get(member.id, (member.role, member.state))
        await self.controller.set_members(members)

    async def _linked(self):
        await eventually(lambda: len(self.frontend.dispatcher.links) == 3, self.start_s)

    async def mend(self):
        """Everybody is alive and reachable again."""
        for name, host in list(self.hosts.items()):
            if process_state(host.process.pid) in GONE:
                await self._end(name)
                await self._start(host.number, host.incarnation + 1)
            elif self.planners[name].closed:
                await self._listen(host)
            self.proxies[name].heal()
        await self.publish()
        await self._linked()

    async def _end(self, name):
        await self.planners[name].hang_up()
        await self.proxies[name].__aexit__(None, None, None)
        self.hosts[name].end()

    async def __aexit__(self, *_):
        await self.frontend.stop()
        for name in list(self.hosts):
            await self._end(name)
        await self.controller.stop()

    def ask(self, request_id, source, target):
        addresses = {name: f"127.0.0.1:{proxy.port}" for name, proxy in self.proxies.items() if name != source}
        move = pb.Move(move_id=request_id, request_id=request_id, frontend="f0", target=target, reason="person")
        self.planners[source].send(pb.Up(peers=pb.Peers(addresses=addresses)), pb.Up(move=move))

    async def expected(self, prompt, tokens):
        if self.says is not None:
            return self.says(prompt, tokens)
        key = tuple(prompt), tokens
        if key not in self.heard:
            self.heard[key] = (await self.frontend.run(f"alone-{len(self.heard)}", prompt, tokens)).tokens
        return self.heard[key]

    async def strike(self, victim, source, target):
        """Returns once it is proved that it took effect."""
        match victim:
            case "source" | "target" | "both":
                doomed = {"source": [source], "target": [target], "both": [source, target]}[victim]
                for name in doomed:
                    os.kill(self.hosts[name].process.pid, signal.SIGKILL)
                await eventually(lambda: all(process_state(self.hosts[n].process.pid) in GONE for n in doomed))
            case "controller":
                for planner in self.planners.values():
                    await planner.hang_up()
                    planner.closed = True
            case "link":
                await self.proxies[target].drop_all()


def vllm_trio(point: str = "", **sizes) -> Trio:
    """Over real engines with the tiny model. Imports vLLM."""
    engine = {"dtype": "float32", "max_model_len": 2048, "kv_cache_bytes": 1 << 27, **sizes}
    config = parse_config({"model": str(ensure_tiny_model()), "engine": engine})
    import_engine(config)
    seam = importlib.import_module("shoal.instance.vllm_seam")
    return Trio(
        point,
        config=config,
        says=None,
        start_s=120.0,
        host=ForkedHost,
        vllm_version=seam.VLLM_VERSION,
        hash_seed=seam.get_none_hash_seed().encode().hex(),
        sampling={"temperature": 0.0, "ignore_eos": True},
    )


class Watch:
    """When each request's tokens reached its client, and when somebody was struck."""

    def __init__(self, frontend):
        self.times_s, self.emit, self.clock = defaultdict(list), frontend.dispatcher.emit, frontend.dispatcher.clock
        self.struck_s = 0.0
        frontend.dispatcher.emit = self._emit

    def _emit(self, batch):
        for output in batch.outputs:
            self.times_s[output.request_id].append(self.clock())
        self.emit(batch)

    async def at(self, request_id, point):
        """Returns when the move is there: its client hears nothing, at a point where it is parked."""
        if point in PAUSED:
            await eventually(lambda: self.clock() - self.times_s[request_id][-1] > STRIKE_S / 2)
        else:
            await asyncio.sleep(STRIKE_S)
        self.struck_s = self.clock()

    def recovery_s(self, request_id):
        """To the next token, from the strike, or from the end of the hold where that came later: a move that is held up
        in an act of its own looks at nothing else. None: it had ended before the strike.
        """
        times_s = self.times_s[request_id]
        before_s = max(time_s for time_s in times_s if time_s <= self.struck_s)
        after_s = min((time_s for time_s in times_s if time_s > self.struck_s), default=None)
        if after_s is None:
            return None
        return after_s - (self.struck_s if after_s < before_s + HELD_S else max(self.struck_s, before_s + HELD_S))


async def one_move(trio, watch, point, victim, number):
    """Returns the time from the strike to the next token of the moved request; None: it ended too early."""
    frontend, request_id = trio.frontend, f"{point}-{victim}-{number}"
    prompt = [Random(request_id).randrange(VOCABULARY) for _ in range(200)]
    wanted = [(prompt, TOKENS), *(([n, number], TOKENS // 2) for n in range(3))]
    expected = [await trio.expected(*one) for one in wanted]
    others = [asyncio.create_task(frontend.run(f"{request_id}-{n}", *one)) for n, one in enumerate(wanted[1:])]
    run = asyncio.create_task(frontend.run(request_id, prompt, TOKENS))
    await eventually(lambda: request_id in frontend.replies)
    await frontend.replies[request_id].wait_tokens(BEFORE)
    source = frontend.dispatcher.journal.tickets[request_id].owner
    target = next(name for name in sorted(trio.hosts) if name != source)
    if trio.in_frontend:  # its loop will stand still, so another thread must strike
        failpoints.arm(point, f"delay:{HELD_S}@1")
        doomed = {"source": [source], "target": [target], "both": [source, target]}.get(victim, [])
        pids = [trio.hosts[name].process.pid for name in doomed]
        trio.ask(request_id, source, target)
        timer = threading.Timer(STRIKE_S, lambda: [os.kill(pid, signal.SIGKILL) for pid in pids])
        timer.start()
        watch.struck_s = watch.clock() + STRIKE_S
        await asyncio.to_thread(timer.join)
    else:
        trio.ask(request_id, source, target)
        await watch.at(request_id, point)
        await trio.strike(victim, source, target)
    for seen, tokens in zip(await asyncio.gather(run, *others), expected, strict=True):
        assert (seen.finish_reason, seen.error) == (FINISH_LENGTH, None), f"{request_id}: {seen.error!r}"
        assert seen.tokens == tokens, request_id
    failpoints.clear()
    await trio.mend()
    frontend.check_empty()
    await eventually(lambda: all(_idle(planner) for planner in trio.planners.values()))
    return watch.recovery_s(request_id)


def _idle(planner):
    load = planner.reports()[-1].load if planner.reports() else None
    return load is not None and (load.running, load.waiting, load.free_blocks) == (0, 0, load.total_blocks)


async def recoveries(trio, point, runs):
    """At least `runs`, and every victim in turn. Returns the times to the next token, by victim."""
    victims = VICTIMS if not trio.in_frontend else ("source", "target", "both")
    found_s, numbers = defaultdict(list), itertools.count()
    async with trio:
        watch = Watch(trio.frontend)
        for victim in [*victims] * -(-runs // len(victims)):
            seen_s = None
            while seen_s is None:  # the test's own time limit ends it
                seen_s = await one_move(trio, watch, point, victim, next(numbers))
            found_s[victim].append(seen_s)
    return found_s


__all__ = ["LIMIT_S", "POINTS", "Trio", "recoveries", "vllm_trio"]
