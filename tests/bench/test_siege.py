"""The siege: its attackers attack, they meet what the edge promises, and its numbers are what they are called."""

import asyncio
import contextlib
from argparse import Namespace
from contextlib import asynccontextmanager

import pytest
import uvicorn

from shoal.bench.record import Record
from shoal.bench.siege import REFUSED, Phase, check, plan, score
from shoal.bench.siege_host import Siege, abuses
from shoal.bench.workload import LoadRequest
from shoal.cluster.http_edge import HttpEdge
from shoal.cluster.http_protocol import guarded
from shoal.cluster.tenants import Tenants
from shoal.proto.errors import InvalidArgument, ServerFault
from shoal.proto.limits import LimitsConfig

ARGS = Namespace(
    idle=10, slow=2, streams=3, output_tokens=8, step_ms=10.0, seconds=2.0, rounds=1, seed=1, start_timeout=5.0
)


async def application(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def edge():
    limits = LimitsConfig(header_s=0.6)
    app = HttpEdge(application, Tenants(None, "s").authenticate, limits)
    server = uvicorn.Server(uvicorn.Config(app, port=0, http=guarded(limits), lifespan="off", log_level="critical"))
    server.capture_signals = contextlib.nullcontext
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


async def test_a_siege_is_refused_cut_off_and_kept_waiting_as_promised():
    async with edge() as port:
        siege = Siege("127.0.0.1", port, idle=20, slow=2, abuse_per_s=50)
        begun = await siege.begin()
        assert (begun["idle_open"], begun["failed"]) == (20, 0)
        async with asyncio.timeout(30):
            while len(siege.answers) < 6 or not siege.slow_cut:
                await asyncio.sleep(0.05)
        said = await siege.end()
    assert said["idle_kept"] == 20
    kinds = {name for name, _ in zip(abuses(), range(6), strict=False) for name in [name[0]]}
    assert {name.rsplit(" ", 1)[0] for name in said["answers"]} == kinds
    assert {name.rsplit(" ", 1)[1] for name in said["answers"]} <= REFUSED


def test_it_attacks_nobody_but_this_machine():
    with pytest.raises(InvalidArgument, match="loopback"):
        Siege("192.0.2.1", 80, idle=1, slow=1, abuse_per_s=1)


def record(sent_s, ttft_s):
    one = Record(LoadRequest(0, 0.0, 1, 1), sent_s=sent_s)
    one.add_chunk(sent_s + ttft_s, 1)
    return one


def test_the_ratio_is_of_those_sent_in_each_kind_of_phase():
    said = {"idle_open": 10, "idle_kept": 9, "slow_cut": 3, "slow_longest_s": 5.1, "answers": {"a 413": 2, "b 200": 1}}
    done = [
        Phase(False, 0.0, 10.0, rss_bytes=[2**20, 2 * 2**20]),
        Phase(True, 20.0, 30.0, rss_bytes=[5 * 2**20, 4 * 2**20], said=said),
    ]
    records = [record(5.0, 0.2), record(15.0, 9.0), record(25.0, 0.3), record(10.0, 9.0)]
    records[1].fail(24.0, "truncated")
    result = score(ARGS, done, records)
    assert result["ttft_ratio"] == pytest.approx(1.5)
    assert (result["requests_calm"], result["requests_siege"]) == (1, 1)
    assert result["memory_growth_mib"] == 3.0
    assert (result["abuses_refused"], result["abuses_answered"]) == (2, {"b 200": 1})
    assert (result["idle_kept"], result["slow_cut"], result["failed"]) == (9, 3, {"truncated": 1})
    with pytest.raises(ServerFault):
        score(ARGS, done, records[:1])


def test_the_plan_outlasts_the_run_and_its_lengths_differ():
    requests = plan(ARGS)
    assert len(requests) > ARGS.streams * 4 / 0.08
    assert len({one.output_tokens for one in requests}) > 4


@pytest.mark.parametrize("change", [{"idle": 0}, {"seconds": 0}, {"idle": 10**9}])
def test_what_cannot_be_measured_is_refused(change):
    with pytest.raises(InvalidArgument):
        check(Namespace(**{**vars(ARGS), **change}))
