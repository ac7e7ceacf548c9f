"""Moves over real links in one process: the client of a moved request notices a pause and nothing else, whichever way
the bytes go and whoever says no.
"""

import asyncio
import os
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from shoal.cluster import link as link_module
from shoal.cluster import membership_watch
from shoal.cluster.frontend_metrics import FrontendRegistry
from shoal.instance.fake_mover import FakeMover
from shoal.instance.fake_tokens import reply
from shoal.instance.metrics import InstanceMetrics
from shoal.instance.migration import line as line_module
from shoal.instance.migration.words import Ending, Patience
from shoal.proto import failpoints
from shoal.proto.codec import FINISH_LENGTH
from shoal.proto.v1 import instance_pb2 as pb
from shoal.router.contract import Role
from tests.tools.mini_cluster import VOCABULARY, MiniCluster, eventually, settled

PROMPT = list(range(50))
TOKENS = 160
# Nobody is given up because this machine is busy.
PATIENT = Patience(look_s=30, open_s=30, parcel_s=30, park_s=30, prepare_s=30, settle_s=30, lease_s=60)


@pytest.fixture(autouse=True)
def streams_may_be_silent(monkeypatch):
    monkeypatch.setattr(link_module, "SILENCE_S", 60.0)
    for module in (link_module, line_module, membership_watch):
        monkeypatch.setattr(module, "CHANNEL_OPTIONS", [("grpc.use_local_subchannel_pool", 1)])


def have_patience(cluster, patience, *names):
    for name in names or cluster.names:
        desk = cluster.instances[name].server.desk
        desk.room = replace(desk.room, patience=patience)


@asynccontextmanager
async def running(cluster, *, tokens=TOKENS, **route):
    """A request after its 20th token, in no hurry to end: (frontend, its task, source, target)."""
    frontend = await cluster.frontend()
    cluster.brake(21)
    have_patience(cluster, PATIENT)
    run = asyncio.create_task(frontend.run("r", PROMPT, tokens, **route))
    await eventually(lambda: "r" in frontend.replies)
    await frontend.replies["r"].wait_tokens(20)
    source = frontend.replies["r"].context.instance
    target = next(name for name in cluster.names if name != source)
    peers = {name: instance.address for name, instance in cluster.instances.items()}
    for name in cluster.names:
        frontend.ask(name, peers=pb.Peers(addresses=peers))
    yield frontend, run, source, target
    failpoints.clear()
    assert await settled(cluster.check) == []
    assert not [name for name in os.listdir("/dev/shm") if name.startswith(f"shoal_move_{os.getpid()}_")]


def move(frontend, source, target, request_id="r"):
    words = pb.Move(move_id="m", request_id=request_id, frontend="f0", target=target, reason="person")
    frontend.ask(source, move=words)


async def moved(frontend):
    """How the move ended, as its source tells whoever asked for it."""
    await eventually(lambda: any(frame.WhichOneof("frame") == "moved" for _, frame in frontend.frames))
    return next(frame.moved for _, frame in frontend.frames if frame.WhichOneof("frame") == "moved")


async def ends_whole(frontend, run, tokens=TOKENS):
    frontend.cluster.brake(None)
    assert_whole(await run, tokens)


def assert_whole(seen, tokens=TOKENS):
    assert (seen.finish_reason, seen.error) == (FINISH_LENGTH, None)
    assert seen.tokens == reply(seen.prompt, tokens, VOCABULARY)


@pytest.mark.parametrize("same_node", [True, False])
async def test_a_moved_stream_is_that_of_an_undisturbed_run_and_its_move_is_on_record(same_node):
    async with MiniCluster(2) as cluster:
        async with running(cluster) as (frontend, run, source, target):
            if not same_node:
                desk = cluster.instances[source].server.desk
                desk.means = replace(desk.means, same_node=False)
            ticket = frontend.dispatcher.journal.tickets["r"]
            move(frontend, source, target)
            told = await moved(frontend)
            assert (told.outcome, told.target) == (Ending.COMMITTED.value, target)
            await ends_whole(frontend, run)
            assert frontend.replies["r"].context.instance == target
            [record] = ticket.moves
            assert (record.source, record.target, record.sent_bytes) == (source, target, told.sent_bytes)
            assert record.sent_bytes >= len(PROMPT) // 4 * 4096 and record.stages == told.stages >= 1
            assert record.pause_s is not None and record.pause_s > 0
            assert frontend.dispatcher.handovers.counts.committed == {"person": 1}
            counts = cluster.instances[source].server.desk.counts
            assert counts.ended == {("person", "committed"): 1} and counts.sent_bytes == told.sent_bytes
            frontend.check_empty()


def lines(collector):
    registry = CollectorRegistry()
    registry.register(collector)
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {sample.name: sample for family in families for sample in family.samples if sample.value}


async def test_a_move_is_counted_on_both_sides_and_its_pause_where_the_client_is():
    async with MiniCluster(2) as cluster:
        async with running(cluster) as (frontend, run, source, target):
            move(frontend, source, target)
            told = await moved(frontend)
            await ends_whole(frontend, run)
            page = lines(FrontendRegistry(frontend.dispatcher, "m", "f0"))
            assert page["shoal_migration_pause_seconds_count"].value == 1
            assert 0 < page["shoal_migration_pause_seconds_sum"].value < 30
            assert page["shoal_frontend_handovers_total"].labels["verdict"] == "committed"
            page = lines(InstanceMetrics(cluster.instances[source].server))
            assert page["shoal_migrations_total"].labels.items() >= {"reason": "person", "outcome": "committed"}.items()
            assert page["shoal_migration_bytes_total"].value == told.sent_bytes
            assert page["shoal_migration_stages_total"].value == told.stages


async def test_blocks_that_the_target_has_are_not_sent():
    async with MiniCluster(2) as cluster:
        async with running(cluster) as (frontend, run, source, target):
            engine = cluster.instances[target].engine
            hashes = cluster.instances[source].engine._requests["r@1"].model.keys.first(10)[:10]
            stepper = cluster.instances[target].server.stepper
            await asyncio.wrap_future(stepper.ask(lambda: engine._model.guests.install(hashes)))
            move(frontend, source, target)
            told = await moved(frontend)
            all_blocks = (len(PROMPT) + told.tokens) // 4 + 1
            assert told.outcome == "committed" and told.sent_bytes <= (all_blocks - 10) * 4096
            await ends_whole(frontend, run)


async def test_a_waiting_request_moves_without_a_copy():
    async with MiniCluster(2) as cluster:
        async with running(cluster, tokens=400) as (frontend, run, source, target):
            server = cluster.instances[source].server
            cluster.instances[source].engine._model.max_num_seqs = 1
            frontend.dispatcher.view.set_state(target, type(frontend.dispatcher.view._standings[target]).DRAINING)
            late = asyncio.create_task(frontend.run("late", [1, 2, 3], 10))
            await eventually(lambda: server.load.waiting == 1)
            move(frontend, source, target, "late")
            assert (await moved(frontend)).outcome == Ending.MOVED_WAITING.value
            seen = await late
            assert seen.context.instance == target
            assert_whole(seen, 10)
            await ends_whole(frontend, run, 400)


async def test_a_lease_that_is_over_sends_the_request_back_to_its_source(monkeypatch):
    async with MiniCluster(2) as cluster:
        async with running(cluster) as (frontend, run, source, target):
            have_patience(cluster, replace(PATIENT, lease_s=0.05), target)
            desk = cluster.instances[target].server.desk
            monkeypatch.setattr(desk, "takeover", lambda *_: False)
            ticket = frontend.dispatcher.journal.tickets["r"]
            move(frontend, source, target)
            await moved(frontend)
            await ends_whole(frontend, run)
            assert (ticket.owner, ticket.epoch, ticket.moves[0].resubmitted) == (source, 3, True)
            assert frontend.dispatcher.handovers.counts.resubmitted == {"person": 1}


async def test_a_damaged_block_ends_the_move_and_the_request_goes_on(monkeypatch):
    read = FakeMover.read

    def damaged(self, pin, positions, into):
        read(self, pin, positions, into)
        into[7] ^= 1

    monkeypatch.setattr(FakeMover, "read", damaged)
    async with MiniCluster(2) as cluster:
        async with running(cluster) as (frontend, run, source, target):
            move(frontend, source, target)
            told = await moved(frontend)
            assert told.outcome == Ending.REFUSED.value and "holds other bytes" in told.detail
            await ends_whole(frontend, run)
            assert frontend.replies["r"].context.instance == source


async def test_the_source_goes_on_when_its_owner_is_silent_and_a_late_yes_frees_it():
    async with MiniCluster(2) as cluster:
        async with running(cluster, tokens=400) as (frontend, run, source, target):
            on_frame, late = frontend.dispatcher.on_frame, []
            link, server = frontend.dispatcher.links[source], cluster.instances[source].server

            def slow(link, frame):
                """From the Handover on, everything waits, in order."""
                late.append(frame) if late or frame.WhichOneof("frame") == "handover" else on_frame(link, frame)

            link.on_frame = slow
            have_patience(cluster, replace(PATIENT, settle_s=0.5), source)
            move(frontend, source, target)
            await eventually(lambda: server.desk.counts.ended[("person", "owner_silent")] == 1)
            assert "r@1" in server.holdings.by_engine_id
            link.on_frame = on_frame
            for frame in late:
                on_frame(link, frame)
            assert frontend.dispatcher.journal.tickets["r"].owner == target
            await eventually(lambda: not server.holdings.by_engine_id and server.load.running == 0)
            assert not frontend.replies["r"].done.is_set()
            await ends_whole(frontend, run, 400)


async def test_a_moved_request_that_is_resumable_is_adopted_at_the_target():
    async with MiniCluster(2) as cluster:
        async with running(cluster, tokens=400, resume_key="key", tenant="t") as (frontend, run, source, target):
            move(frontend, source, target)
            assert (await moved(frontend)).outcome == "committed"
            await eventually(lambda: frontend.replies["r"].context.instance == target)
            second = await cluster.frontend("f1")
            await frontend.stop()
            cluster.frontends.remove(frontend)
            run.cancel()
            holdings = cluster.instances[target].server.holdings
            await eventually(lambda: holdings.orphan("key", "t") is not None)
            links = list(second.dispatcher.links.values())
            link, adopted = await second.dispatcher.inquiries.find_orphan(links, "key", "t", 5.0)
            assert (link.instance_id, adopted.epoch) == (target, 2)
            cluster.brake(None)
            seen = second.claim(link, adopted, "again", PROMPT)
            async with asyncio.timeout(30):
                await seen.done.wait()
            assert_whole(seen, 400)


async def test_the_planner_hears_who_is_where_and_is_obeyed_in_how_an_instance_is_meant_to_be():
    async with MiniCluster(2) as cluster:
        async with running(cluster) as (frontend, run, source, target):
            server = cluster.instances[source].server
            planner = server.seat(pb.Hello(watcher_id="controller"), sealed=False)
            residents = []
            while not residents:
                frame = await asyncio.wait_for(planner.next(), 5)
                residents = list(frame.report.residents)
            [one] = residents
            assert (one.request_id, one.frontend, one.state, one.moves) == ("r", "f0", "running", 0)
            assert one.prompt_tokens == len(PROMPT) and one.output_tokens >= 20 and not one.unmovable
            frontend.ask(source, steer=pb.Steer(draining=True))
            await eventually(lambda: frontend.dispatcher.view._loads[source].draining)
            move(frontend, target, source)
            assert (await moved(frontend)).outcome == Ending.SOURCE_GONE.value  # it is not there
            server._leave(planner)
            await ends_whole(frontend, run)


# Planned at admission: prefill and decode apart


@asynccontextmanager
async def one_prefills_one_decodes(patience=PATIENT):
    """The frontend; prompts of 24 tokens or more are prefilled at i0, which is slow, everything else at i1."""
    async with MiniCluster(2) as cluster:
        cluster.brake(0, "i0")
        have_patience(cluster, patience)
        cluster.instances["i0"].role, cluster.instances["i1"].role = Role.PREFILL.value, Role.DECODE.value
        await cluster.publish()
        frontend = await cluster.frontend()
        frontend.dispatcher.view.split_from_tokens = 24
        peers = {name: instance.address for name, instance in cluster.instances.items()}
        for name in cluster.names:
            frontend.ask(name, peers=pb.Peers(addresses=peers))
        yield cluster, frontend
        failpoints.clear()
        assert await settled(cluster.check) == []
        assert frontend.dispatcher.ledgers.pairs.planned == {}


async def test_with_prefill_and_decode_apart_every_stream_is_that_of_one_instance():
    async with one_prefills_one_decodes() as (_, frontend):
        rng = Random(4)
        prompts = [[rng.randrange(VOCABULARY) for _ in range(rng.choice([8, 24, 60, 200]))] for _ in range(12)]
        await asyncio.gather(*(frontend.run(f"r{n}", prompt, 300) for n, prompt in enumerate(prompts)))
        for n in range(len(prompts)):
            assert_whole(frontend.replies[f"r{n}"], 300)
            assert frontend.replies[f"r{n}"].context.instance == "i1"
        long = sum(len(prompt) >= 24 for prompt in prompts)
        assert frontend.dispatcher.handovers.counts.committed["disaggregate"] == long


@pytest.mark.parametrize("victim", ["i0", "i1"])
@pytest.mark.parametrize("point", ["departure.copy", "arrival.prepared"])
async def test_the_end_of_either_side_in_a_planned_hand_over_costs_no_token(victim, point):
    await one_end(point, victim)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_fifty_ends_of_either_side_in_planned_hand_overs_cost_no_token():
    stages = ("look", "copy", "open", "prepare", "hand_over")
    points = [f"departure.{stage}" for stage in stages] + [f"arrival.{stage}" for stage in ("lease", "install", "hold")]
    rng = Random(50)
    for _ in range(50):
        await one_end(rng.choice(points), rng.choice(["i0", "i1"]))


async def one_end(point, victim):
    async with one_prefills_one_decodes(replace(PATIENT, lease_s=1)) as (cluster, frontend):
        failpoints.arm(point, "pause:30@1")
        run = asyncio.create_task(frontend.run("r", PROMPT, TOKENS))
        reached = await asyncio.to_thread(failpoints.wait_reached, point, 30)
        assert reached, [str(frame) for _, frame in frontend.frames if frame.WhichOneof("frame") != "report"]
        cluster.brake(None)
        killing = asyncio.create_task(cluster.instances[victim].kill())
        await eventually(lambda: victim not in frontend.dispatcher.links)
        failpoints.release(point)
        await asyncio.gather(run, killing)
        assert_whole(frontend.replies["r"])
