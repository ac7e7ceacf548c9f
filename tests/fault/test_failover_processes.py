"""Instance processes are killed and frozen in turn under streams; the oracle then finds no token wrong, no request
without its one outcome, no block in use, and no process left.
"""

import asyncio
import contextlib
import os
import signal
from random import Random

import pytest

from shoal.bench.oracle import (
    Resources,
    Stream,
    check_blocks,
    check_outcomes,
    check_resources,
    check_tokens,
    check_whole,
)
from shoal.bench.static_controller import StaticController
from shoal.cluster.journal import Outcome
from shoal.cluster.link import LinkEnd
from shoal.instance.fake_tokens import reply
from tests.tools.host_process import Host, host_config
from tests.tools.mini_cluster import VOCABULARY, MiniFrontend, eventually

ROUNDS = 200 if os.environ.get("SHOAL_NIGHTLY") else 10
STREAMS = 8
TOKENS = 60
INSTANCES = 3
CONFIG = host_config(a_ms=4.0)
ENDS = {Outcome.LENGTH.value}


class Hosts:
    """Owns controller, processes and the frontend."""

    async def __aenter__(self):
        self.controller = StaticController()
        self.controller_address = await self.controller.start()
        self.hosts = {}
        for host in await asyncio.gather(*(Host(n, config=CONFIG).start() for n in range(INSTANCES))):
            self.hosts[host.name] = host
        await self.publish()
        self.frontend = MiniFrontend(self, "f0")
        await self.all_linked()
        return self

    async def publish(self):
        await self.controller.set_members([host.member() for host in self.hosts.values()])

    async def all_linked(self):
        await eventually(lambda: len(self.frontend.dispatcher.links) == INSTANCES)

    async def replace(self, host):
        host.end()
        self.hosts[host.name] = await Host(host.number, host.incarnation + 1, config=CONFIG).start()
        await self.publish()

    def status(self):
        """As `shoal status --json` says it, from the latest report of each instance."""
        latest = {
            link.instance_id: frame.report.load for link, frame in self.frontend.frames[-200:] if frame.report.step
        }
        words = ("free_blocks", "total_blocks", "running", "waiting")
        rows = [{"id": name, "state": "ready", **{w: getattr(load, w) for w in words}} for name, load in latest.items()]
        return {"instances": rows}

    async def __aexit__(self, *_):
        await self.frontend.stop()
        for host in self.hosts.values():
            host.end()
        await self.controller.stop()


async def client(frontend, number, rng, enough):
    """One stream after the other until there were enough faults. Returns what it saw of each."""
    seen = {}
    while not enough.is_set():
        request_id = f"c{number}-{len(seen)}"
        prompt = [rng.randrange(256) for _ in range(rng.randint(1, 50))]
        seen[request_id] = await frontend.run(request_id, prompt, TOKENS)
    return seen


async def round_of_faults(hosts, rng, turn):
    frontend = hosts.frontend
    serving = sorted({t.owner for t in frontend.dispatcher.journal.tickets.values() if t.owner and t.delivered})
    host = hosts.hosts[rng.choice(serving or sorted(hosts.hosts))]
    link = frontend.dispatcher.links[host.name]
    if turn % 2:
        await host.fault(signal.SIGSTOP)
        try:
            await eventually(lambda: frontend.dispatcher.links.get(host.name) is not link)
            frontend.check()
        finally:
            os.kill(host.process.pid, signal.SIGCONT)
    else:
        await host.fault(signal.SIGKILL)
        await eventually(lambda: frontend.dispatcher.links.get(host.name) is not link)
        frontend.check()
        await hosts.replace(host)
    await hosts.all_linked()
    tickets = frontend.dispatcher.journal.tickets
    await eventually(lambda: not any(ticket.crashes for ticket in tickets.values()))  # at a second one they are suspect


@pytest.mark.timeout(900)
async def test_streams_outlive_instances_that_are_killed_and_frozen_in_turn():
    before = Resources.of()
    rng, enough = Random(7), asyncio.Event()
    async with Hosts() as hosts:
        frontend = hosts.frontend
        clients = [asyncio.create_task(client(frontend, n, Random(n), enough)) for n in range(STREAMS)]
        with contextlib.ExitStack() as stack:
            stack.callback(enough.set)
            for turn in range(ROUNDS):
                await asyncio.sleep(rng.uniform(0.05, 0.4))
                await round_of_faults(hosts, rng, turn)
        seen = {request_id: one for task in clients for request_id, one in (await task).items()}
        ends = frontend.dispatcher.link_ends
        assert ends[LinkEnd.SILENT] >= ROUNDS // 2 and ends.total() >= ROUNDS, ends
        assert frontend.dispatcher.failovers >= ROUNDS // 2
        streams = {
            request_id: Stream(list(enumerate(one.tokens)), [outcome_of(one)]) for request_id, one in seen.items()
        }
        reference = {request_id: reply(one.prompt, TOKENS, VOCABULARY) for request_id, one in seen.items()}
        assert check_tokens(streams, reference) == []
        assert check_whole(streams, reference) == []
        assert check_outcomes(streams, seen, ENDS) == []
        assert frontend.outcomes() == {Outcome.LENGTH: len(seen)}
        frontend.check_empty()
        await eventually(lambda: check_blocks(hosts.status()) == [] and len(hosts.status()["instances"]) == INSTANCES)
    # What gRPC opens once and keeps: its poller and its threads.
    assert check_resources(before, Resources.of(), spare_files=12, spare_threads=24) == []


def outcome_of(seen):
    return Outcome.LENGTH.value if seen.error is None else type(seen.error).__name__
