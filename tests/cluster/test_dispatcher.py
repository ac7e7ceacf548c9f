"""Requests over real links to instances in this process that are killed, frozen, cut off and corrupted: every client
gets the tokens of an undisturbed run, once each, or one typed error; and nothing of an ended request is kept anywhere.
"""

import asyncio
import os
from random import Random

import numpy as np
import pytest

from shoal.bench.fault_proxy import Faults
from shoal.cluster import dispatcher as dispatcher_module
from shoal.cluster.journal import Outcome, Verdict
from shoal.cluster.link import LinkEnd
from shoal.instance.fake_tokens import reply
from shoal.proto import codec, failpoints
from shoal.proto.codec import FINISH_LENGTH, WireOutput, WireOutputs
from shoal.proto.config import AdmissionConfig
from shoal.proto.errors import DeadlinePassed, InvalidArgument, Overloaded, Quarantined, Unavailable
from shoal.proto.seal import Sealer
from shoal.proto.v1 import instance_pb2 as pb
from shoal.router.foresight import Foresight
from shoal.router.view import Standing
from tests.tools.mini_cluster import FAKE, VOCABULARY, MiniCluster, eventually, settled

NIGHTLY = bool(os.environ.get("SHOAL_NIGHTLY"))
SEEDS = range(100 if NIGHTLY else 8)
POISON = 666


def prompts(rng: Random, count: int) -> list[list[int]]:
    return [[rng.randrange(256) for _ in range(rng.randint(1, 40))] for _ in range(count)]


def assert_whole(seen, tokens):
    assert (seen.finish_reason, seen.error) == (FINISH_LENGTH, None)
    assert seen.tokens == reply(seen.prompt, tokens, VOCABULARY)


async def assert_clean(cluster, *frontends):
    """P2, P6."""
    for frontend in frontends:
        frontend.check_empty()
    assert await settled(cluster.check) == []


@pytest.fixture
def points():
    yield failpoints
    failpoints.clear()


# -- undisturbed


async def test_many_requests_get_the_tokens_of_their_prompts_and_leave_nothing():
    async with MiniCluster(2) as cluster:
        frontend = await cluster.frontend()
        replies = await asyncio.gather(*(frontend.run(f"r{n}", p, 5 + n) for n, p in enumerate(prompts(Random(1), 20))))
        for n, seen in enumerate(replies):
            assert_whole(seen, 5 + n)
        assert {seen.context.instance for seen in replies} == {"i0", "i1"}
        assert frontend.outcomes() == {Outcome.LENGTH: 20}
        await assert_clean(cluster, frontend)


# -- instances that die (F1)


@pytest.mark.parametrize("seed", SEEDS)
async def test_tokens_are_those_of_an_undisturbed_run_whenever_an_instance_is_killed(seed):
    rng = Random(seed)
    async with MiniCluster(3, seed=seed) as cluster:
        frontend = await cluster.frontend(seed=seed)
        runs = [
            asyncio.create_task(frontend.run(f"r{n}", p, rng.choice([1, 2, 17, 40])))
            for n, p in enumerate(prompts(rng, 12))
        ]
        for _ in range(2):
            await asyncio.sleep(rng.uniform(0.0, 0.1))
            victim = rng.choice(sorted(name for name, life in cluster.instances.items() if life.alive))
            await cluster.instances[victim].kill()
            if rng.random() < 0.5:
                await cluster.revive(victim)
            frontend.check()
        replies = await asyncio.gather(*runs)
        given_up = [seen for seen in replies if isinstance(seen.error, Quarantined)]
        for seen in replies:
            assert seen.tokens == seen.expected()
            if seen not in given_up:
                assert seen.finish_reason == FINISH_LENGTH and seen.error is None
        assert frontend.outcomes().get(Outcome.QUARANTINED, 0) == len(given_up)
        await assert_clean(cluster, frontend)


@pytest.mark.parametrize("at", [1, 17, 39])
async def test_a_stream_goes_on_after_the_death_of_its_instance_at_token(at):
    async with MiniCluster(2) as cluster:
        frontend = await cluster.frontend()
        run = asyncio.create_task(frontend.run("r", [1, 2, 3], 40))
        await eventually(lambda: "r" in frontend.replies)
        seen = frontend.replies["r"]
        await seen.wait_tokens(at)
        first = seen.context.instance
        await cluster.instances[first].kill()
        assert_whole(await run, 40)
        assert seen.context.instance == first or frontend.dispatcher.failovers == 1
        await eventually(lambda: frontend.dispatcher.link_ends[LinkEnd.CRASHED] == 1)  # its last token may come first
        await assert_clean(cluster, frontend)


async def test_instances_that_die_together_make_no_request_suspect():
    async with MiniCluster(3) as cluster:
        frontend = await cluster.frontend()
        runs = [asyncio.create_task(frontend.run(f"r{n}", [n], 60)) for n in range(9)]
        await eventually(lambda: len(frontend.replies) == 9 and all(seen.tokens for seen in frontend.replies.values()))
        await asyncio.gather(*(cluster.instances[name].kill() for name in ("i0", "i1")))
        for seen in await asyncio.gather(*runs):
            assert_whole(seen, 60)
        await assert_clean(cluster, frontend)


async def test_nobody_returns_to_an_instance_that_was_not_heard_since_the_crash():
    """A killed process may keep its connection for a while: it says nothing more, and then it is gone too."""
    async with MiniCluster(2) as cluster:
        frontend = await cluster.frontend()
        run = asyncio.create_task(frontend.run("r", [1], 60))
        await eventually(lambda: "r" in frontend.replies and bool(frontend.replies["r"].tokens))
        ticket = frontend.dispatcher.journal.tickets["r"]
        first, second = ticket.owner, next(name for name in cluster.names if name != ticket.owner)
        frontend.dispatcher.links[second].on_frame = lambda *_: None
        await cluster.instances[first].kill()
        await eventually(lambda: first not in frontend.dispatcher.links)
        await asyncio.sleep(3 * dispatcher_module.GRACE_S)
        assert ticket.owner is None
        await cluster.instances[second].kill()
        for name in cluster.names:
            await cluster.revive(name)
        assert_whole(await run, 60)
        await assert_clean(cluster, frontend)


async def test_an_instance_that_is_started_again_is_linked_again():
    async with MiniCluster(1) as cluster:
        frontend = await cluster.frontend()
        await cluster.instances["i0"].kill()
        await eventually(lambda: not frontend.dispatcher.links)
        run = asyncio.create_task(frontend.run("r", [4], 5))
        await cluster.revive("i0")
        assert_whole(await run, 5)
        await assert_clean(cluster, frontend)


# -- instances that freeze or are cut off (F2, F7)


async def test_requests_leave_a_frozen_instance_and_its_late_tokens_are_refused_when_it_thaws():
    async with MiniCluster(2) as cluster:
        frontend = await cluster.frontend()
        cluster.brake(5)
        runs = [asyncio.create_task(frontend.run(f"r{n}", [n], 200)) for n in range(4)]
        await eventually(lambda: all(f"r{n}" in frontend.replies for n in range(4)))
        for seen in list(frontend.replies.values()):
            await seen.wait_tokens(3)
        old_link = frontend.dispatcher.links["i0"]
        cluster.instances["i0"].freeze()
        await eventually(lambda: frontend.dispatcher.links.get("i0") is not old_link)
        assert frontend.dispatcher.link_ends == {LinkEnd.SILENT: 1}
        assert frontend.dispatcher.failovers == 2
        cluster.brake(None)
        for run in runs:
            assert_whole(await run, 200)
        cluster.instances["i0"].thaw()
        await eventually(lambda: "i0" in frontend.dispatcher.links)
        replay_late_frames(frontend, old_link)
        assert_whole(await frontend.run("after", [9], 5), 5)
        await assert_clean(cluster, frontend)


def replay_late_frames(frontend, link):
    """Everything that a lost link ever said, once more: nobody believes a word of it."""
    said = {request_id: list(seen.tokens) for request_id, seen in frontend.replies.items()}
    before = frontend.dispatcher.journal.verdicts.copy()
    late = [frame for source, frame in frontend.frames if source is link and frame.report.outputs]
    assert late
    for frame in late:
        frontend.dispatcher.on_frame(link, frame)
    assert {request_id: seen.tokens for request_id, seen in frontend.replies.items()} == said
    judged = frontend.dispatcher.journal.verdicts - before
    assert set(judged) == {Verdict.STALE}


async def test_late_tokens_of_a_former_epoch_are_refused_while_the_request_runs_on_under_the_same_name():
    """The instance lost it, another had it, and it came back: only the epoch tells its tokens apart."""
    async with MiniCluster(1) as cluster:
        frontend = await cluster.frontend()
        cluster.brake(12)
        run = asyncio.create_task(frontend.run("r", [7], 120))
        await eventually(lambda: "r" in frontend.replies)
        seen = frontend.replies["r"]
        await seen.wait_tokens(10)
        old_link = frontend.dispatcher.links["i0"]
        await cluster.instances["i0"].kill()
        await cluster.revive("i0")
        cluster.brake(12)
        await seen.wait_tokens(20)
        assert frontend.dispatcher.journal.tickets["r"].owner == "i0"
        replay_late_frames(frontend, old_link)
        cluster.brake(None)
        assert_whole(await run, 120)


async def test_a_cut_line_is_silence_and_not_a_crash():
    async with MiniCluster(2) as cluster:
        frontend = await cluster.frontend()
        run = asyncio.create_task(frontend.run("r", [1, 2], 500))
        await eventually(lambda: "r" in frontend.replies)
        seen = frontend.replies["r"]
        await seen.wait_tokens(5)
        victim = cluster.instances[seen.context.instance]
        victim.proxy.up.faults = victim.proxy.down.faults = Faults(black_hole=True)
        await eventually(lambda: seen.context.instance != victim.name)
        assert victim.proxy.down.counts.swallowed_bytes > 0
        assert frontend.dispatcher.link_ends == {LinkEnd.SILENT: 1}
        assert frontend.dispatcher.journal.tickets["r"].crashes == 0
        victim.proxy.heal()
        await victim.proxy.drop_all()
        assert_whole(await run, 500)
        await eventually(lambda: len(frontend.dispatcher.links) == 2)
        await assert_clean(cluster, frontend)


@pytest.mark.parametrize("seed", SEEDS)
async def test_bytes_that_are_cut_short_or_doubled_on_the_way_change_no_token(seed):
    rng = Random(seed)
    async with MiniCluster(2, seed=seed) as cluster:
        frontend = await cluster.frontend(seed=seed)
        runs = [asyncio.create_task(frontend.run(f"r{n}", p, 60)) for n, p in enumerate(prompts(rng, 6))]
        await asyncio.sleep(rng.uniform(0.02, 0.1))
        proxy = cluster.instances["i0"].proxy
        kind = ["truncate_after_bytes", "reset_after_bytes", "duplicate_one_in_chunks"][seed % 3]
        proxy.down.faults = Faults(**{kind: 1 + rng.randrange(3)})
        replies = await asyncio.gather(*runs)
        for seen in replies:
            assert seen.tokens == seen.expected()
            if seen.error is None:
                assert_whole(seen, 60)
        counts = proxy.down.counts
        await eventually(lambda: bool(counts.truncated + counts.resets + counts.duplicated_chunks))
        proxy.heal()
        await eventually(lambda: len(frontend.dispatcher.links) == 2)
        judged = frontend.dispatcher.journal.verdicts
        refused = judged[Verdict.REPEATED] + judged[Verdict.STALE]  # a doubled chunk may be a whole report, said twice
        assert sum(frontend.dispatcher.link_ends.values()) or (kind == "duplicate_one_in_chunks" and refused)
        await assert_clean(cluster, frontend)


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("seed", SEEDS)
async def test_flipped_bits_change_no_token(seed, way):
    """F16. Prompts and limits on the way up, tokens on the way down: a damaged frame ends its link instead."""
    rng = Random(seed)
    async with MiniCluster(2, seed=seed) as cluster:
        frontend = await cluster.frontend(seed=seed)
        runs = [asyncio.create_task(frontend.run(f"r{n}", p, 60)) for n, p in enumerate(prompts(rng, 8))]
        await asyncio.sleep(0.0 if way == "up" else rng.uniform(0.0, 0.1))
        line = getattr(cluster.instances["i0"].proxy, way)
        line.faults = Faults(flip_one_in_bytes=rng.choice([100, 300, 1000]))
        await eventually(lambda: line.counts.flipped_bytes > 0 or all(run.done() for run in runs))
        await asyncio.sleep(0.1)
        line.faults = Faults()
        replies = await asyncio.gather(*runs)
        for seen in replies:
            assert seen.tokens == seen.expected()
            assert len(seen.tokens) == 60 or isinstance(seen.error, Quarantined)
        await eventually(lambda: len(frontend.dispatcher.links) == 2)
        await assert_clean(cluster, frontend)


# -- frames that make no sense (F16, F19)


def report_of(outputs=None, **report):
    frame = pb.Down(report=pb.StepReport(**report, load=pb.Load(free_blocks=1, total_blocks=1)))
    if outputs is not None:
        frame.report.outputs = outputs if isinstance(outputs, bytes) else codec.encode(WireOutputs(outputs=outputs))
    return frame


NONSENSE = {
    "bytes that are no frame": None,
    "no msgpack": {"outputs": b"\xc1"},
    "msgpack of another kind": {"outputs": b"\x81\x01\x02"},
    "more outputs than epochs": {"outputs": [WireOutput("r", [1])], "indexes": [0]},
    "an unknown block change": {"blocks": [pb.BlockChange(kind=7, hashes=[b"x"])]},
    "an unknown way to finish": {
        "outputs": [WireOutput("r", [], finish_reason=77)], "epochs": [1], "indexes": [3]
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", NONSENSE)
async def test_a_frame_that_makes_no_sense_ends_its_link_and_the_request_moves(kind, caplog):
    async with MiniCluster(2) as cluster:
        frontend = await cluster.frontend()
        cluster.brake(4)
        run = asyncio.create_task(frontend.run("r", [1, 2], 60))
        await eventually(lambda: "r" in frontend.replies)
        seen = frontend.replies["r"]
        await seen.wait_tokens(3)
        owner = seen.context.instance
        link, nonsense = frontend.dispatcher.links[owner], NONSENSE[kind]
        inject(link, lambda: nonsense and report_of(**{**nonsense, "indexes": [len(seen.tokens)]}))
        await eventually(lambda: frontend.dispatcher.links.get(owner) is not link)
        cluster.brake(None)
        assert_whole(await run, 60)
        assert frontend.dispatcher.link_ends == {LinkEnd.CLOSED: 1}
        assert "cannot be taken in" in caplog.text
        await eventually(lambda: len(frontend.dispatcher.links) == 2)
        await assert_clean(cluster, frontend)


def inject(link, make_frame):
    """The next frame that this link's reader gets is this one, sealed by an instance that knows no better."""
    read, given = link.call.read, [make_frame]

    async def injected():
        if not given:
            return await read()
        frame, sealer = given.pop()(), Sealer()
        if frame is not None:
            sealer.count = link.seals.count
            sealer.seal(frame)
        return frame

    link.call.read = injected


async def test_requests_wait_in_order_for_the_memory_that_others_will_need():
    async with MiniCluster(1) as cluster:
        frontend = await cluster.frontend()
        dispatcher = frontend.dispatcher
        full = Foresight(
            shares=np.array([1.0]), remaining_tokens=np.array([1e9])
        )  # only an idle instance can take more
        dispatcher.view.foresight = dispatcher.ledgers.foreseer.foresight = full
        runs = [asyncio.create_task(frontend.run(f"r{n}", [n], 30)) for n in range(3)]
        await eventually(lambda: dispatcher.admission.queued_requests == 2)
        for n, run in enumerate(runs):
            assert_whole(await run, 30)
            assert not any(later.done() for later in runs[n + 1 :])
        await assert_clean(cluster, frontend)


async def test_missed_block_changes_are_told_anew():
    async with MiniCluster(1) as cluster:
        frontend = await cluster.frontend()
        dispatcher, server = frontend.dispatcher, cluster.lives[0].server
        assert_whole(await frontend.run("r", list(range(40)), 20), 20)
        await eventually(lambda: dispatcher.view.holdings() != [])
        unheard = report_of(blocks=[pb.BlockChange(hashes=[b"x"])], block_sequence=server.blocks.sequence + 7)
        inject(dispatcher.links["i0"], lambda: unheard)
        await eventually(lambda: dispatcher.view.holdings() == [])
        await eventually(lambda: dispatcher.view.holdings() != [])
        [holding] = dispatcher.view.holdings()
        assert set(holding.hashes) == set(server.blocks.cached)
        await assert_clean(cluster, frontend)


async def test_a_gap_takes_the_request_away_from_its_instance_and_loses_nothing():
    async with MiniCluster(1) as cluster:
        frontend = await cluster.frontend()
        cluster.brake(4)
        run = asyncio.create_task(frontend.run("r", [5], 60))
        await eventually(lambda: "r" in frontend.replies)
        seen = frontend.replies["r"]
        await seen.wait_tokens(3)
        gap = report_of([WireOutput("r", [1])], epochs=[1], indexes=[len(seen.tokens) + 2])
        frontend.dispatcher.on_frame(frontend.dispatcher.links["i0"], gap)
        cluster.brake(None)
        assert_whole(await run, 60)
        assert frontend.dispatcher.journal.verdicts[Verdict.BROKEN] >= 1
        await assert_clean(cluster, frontend)


# -- nobody is there


async def test_without_instances_requests_wait_for_a_bounded_time_and_are_then_told_when_to_come_back():
    async with MiniCluster(1) as cluster:
        frontend = await cluster.frontend(limits=AdmissionConfig(no_instance_wait_s=0.2))
        await cluster.instances["i0"].kill()
        await eventually(lambda: not frontend.dispatcher.links)
        with pytest.raises(Unavailable) as caught:
            await frontend.submit("r", [1])
        assert caught.value.retry_after_s and frontend.replies["r"].context.error is caught.value
        assert frontend.outcomes() == {Outcome.UNAVAILABLE: 1}
        frontend.check_empty()


async def test_a_stream_whose_instances_are_all_gone_ends_with_the_same_error():
    async with MiniCluster(1) as cluster:
        frontend = await cluster.frontend(limits=AdmissionConfig(no_instance_wait_s=0.2))
        run = asyncio.create_task(frontend.run("r", [1], 500))
        await eventually(lambda: "r" in frontend.replies)
        await frontend.replies["r"].wait_tokens(2)
        await cluster.instances["i0"].kill()
        seen = await run
        assert seen.failed and isinstance(seen.error, Unavailable) and seen.error.retry_after_s
        assert seen.tokens == seen.expected() and seen.tokens
        frontend.check_empty()


async def test_a_deadline_passes_while_waiting_for_a_place_and_for_the_first_token():
    async with MiniCluster(1) as cluster:
        frontend = await cluster.frontend()
        cluster.instances["i0"].may_step.clear()
        with pytest.raises(DeadlinePassed):
            frontend.dispatcher.set_standing("i0", Standing.FENCED)
            await frontend.submit("queued", [1], deadline_s=0.1)
        frontend.dispatcher.set_standing("i0", Standing.READY)
        seen = await frontend.run("placed", [1], deadline_s=0.1)
        assert seen.failed and isinstance(seen.error, DeadlinePassed)
        assert frontend.outcomes() == {Outcome.EXPIRED: 2}
        cluster.instances["i0"].may_step.set()
        await assert_clean(cluster, frontend)


async def test_those_who_wait_are_served_by_priority_and_then_in_order():
    async with MiniCluster(1) as cluster:
        frontend = await cluster.frontend()
        frontend.dispatcher.set_standing("i0", Standing.FENCED)
        runs = [
            asyncio.create_task(frontend.run(name, [1], priority=priority))
            for name, priority in (("late", 1), ("first", 0), ("second", 0), ("urgent", -1))
        ]
        await eventually(lambda: frontend.dispatcher.admission.queued_requests == 4)
        sent = []
        link = frontend.dispatcher.links["i0"]
        submit = link.submit
        link.submit = lambda message: (sent.append(message.request_id), submit(message))
        frontend.dispatcher.set_standing("i0", Standing.READY)
        await asyncio.gather(*runs)
        assert sent == ["urgent", "first", "second", "late"]


async def test_a_moved_request_goes_before_those_who_wait_for_their_first_place(monkeypatch):
    monkeypatch.setattr(dispatcher_module, "RETURNS_PER_TICK", 1)
    async with MiniCluster(1) as cluster:
        frontend = await cluster.frontend()
        runs = [asyncio.create_task(frontend.run(f"old{n}", [n], 60)) for n in range(5)]
        await eventually(lambda: len(frontend.replies) == 5)
        for seen in list(frontend.replies.values()):
            await seen.wait_tokens(2)
        await cluster.instances["i0"].kill()
        await eventually(lambda: not frontend.dispatcher.links)
        runs.append(asyncio.create_task(frontend.run("young", [9], 60)))
        await eventually(lambda: len(frontend.replies) == 6)
        assert [r.request_id for r in frontend.dispatcher.admission.queued()][-1] == "young"
        await cluster.revive("i0")
        for run in runs:
            assert_whole(await run, 60)
        await assert_clean(cluster, frontend)


async def test_a_full_queue_refuses_and_says_when_to_come_back():
    async with MiniCluster(1) as cluster:
        frontend = await cluster.frontend(limits=AdmissionConfig(max_requests=2))
        frontend.dispatcher.set_standing("i0", Standing.FENCED)
        runs = [asyncio.create_task(frontend.run(f"r{n}", [n])) for n in range(2)]
        await eventually(lambda: frontend.dispatcher.admission.queued_requests == 2)
        with pytest.raises(Overloaded) as caught:
            await frontend.submit("one more", [1])
        assert caught.value.retry_after_s
        assert frontend.outcomes() == {Outcome.OVERLOADED: 1}
        frontend.dispatcher.set_standing("i0", Standing.READY)
        for run in runs:
            assert_whole(await run, 16)
        await assert_clean(cluster, frontend)


# -- requests that are refused


async def test_what_no_instance_can_serve_is_refused_at_once():
    async with MiniCluster(1) as cluster:
        frontend = await cluster.frontend()
        for name, prompt, route in (("long", [1] * 1024, {}), ("adapter", [1], {"lora": "none"})):
            async with asyncio.timeout(5):
                with pytest.raises(InvalidArgument):
                    await frontend.submit(name, prompt, **route)
        assert frontend.outcomes() == {Outcome.REFUSED: 2}
        await assert_clean(cluster, frontend)


async def test_what_the_engine_refuses_ends_as_the_clients_fault():
    async with MiniCluster(1) as cluster:
        frontend = await cluster.frontend()
        seen = await frontend.run("r", [1 << 40])
        assert seen.failed and "prompt_token_ids" in str(seen.error) and seen.error.http_status == 400
        assert frontend.outcomes() == {Outcome.REFUSED: 1}
        await assert_clean(cluster, frontend)


async def test_an_id_in_use_is_refused_and_does_the_first_one_no_harm():
    """F26."""
    async with MiniCluster(1) as cluster:
        frontend = await cluster.frontend()
        run = asyncio.create_task(frontend.run("r", [1], 60))
        await eventually(lambda: "r" in frontend.replies)
        first = frontend.replies["r"]
        await first.wait_tokens(2)
        with pytest.raises(InvalidArgument, match="not in use"):
            await frontend.dispatcher.submit(frontend.ticket("r", [1], 5), first.context)
        assert_whole(first, 60) if first.done.is_set() else None
        first.context.error = None
        assert_whole(await run, 60)
        assert frontend.dispatcher.journal.outcomes == {Outcome.REFUSED: 1, Outcome.LENGTH: 1}
        frontend.check()


# -- aborts (F14, F26)


@pytest.mark.parametrize("seed", SEEDS)
async def test_aborts_at_random_points_leave_all_blocks_free_and_no_trace(seed):
    rng = Random(seed)
    async with MiniCluster(2, seed=seed) as cluster:
        frontend = await cluster.frontend(seed=seed)

        async def client(number, prompt):
            run = asyncio.create_task(frontend.run(f"r{number}", prompt, 80))
            await asyncio.sleep(rng.choice([0, 0, rng.uniform(0, 0.3)]))
            if rng.random() < 0.5:
                run.cancel()  # while it waits for its place, if that takes long
            frontend.dispatcher.abort([f"r{number}", f"r{number}", "nobody"])
            frontend.check()
            if f"r{number}" in frontend.replies:
                frontend.replies[f"r{number}"].done.set()
            await asyncio.gather(run, return_exceptions=True)

        await asyncio.gather(*(client(n, p) for n, p in enumerate(prompts(rng, 40))))
        assert all(seen.tokens == seen.expected() for seen in frontend.replies.values())
        assert set(frontend.outcomes()) <= {Outcome.ABORTED, Outcome.LENGTH}
        await assert_clean(cluster, frontend)


async def test_an_abort_ends_the_wait_for_a_place():
    async with MiniCluster(1) as cluster:
        frontend = await cluster.frontend()
        frontend.dispatcher.set_standing("i0", Standing.FENCED)
        waiting = asyncio.create_task(frontend.submit("r", [1]))
        await eventually(lambda: frontend.dispatcher.admission.queued_requests == 1)
        frontend.dispatcher.abort(["r"])
        async with asyncio.timeout(5):
            await waiting
        assert frontend.outcomes() == {Outcome.ABORTED: 1}
        frontend.check_empty()


async def test_cancelling_the_wait_for_a_place_aborts():
    async with MiniCluster(1) as cluster:
        frontend = await cluster.frontend()
        frontend.dispatcher.set_standing("i0", Standing.FENCED)
        waiting = asyncio.create_task(frontend.submit("r", [1]))
        await eventually(lambda: frontend.dispatcher.admission.queued_requests == 1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert frontend.outcomes() == {Outcome.ABORTED: 1}
        frontend.check_empty()


# -- poison


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # an engine thread dies of it
async def test_a_request_that_kills_engines_costs_two_instances_and_its_repetition_none():
    async with MiniCluster(4) as cluster:
        frontend = await cluster.frontend()
        bystanders = [asyncio.create_task(frontend.run(f"r{n}", [n], 100)) for n in range(4)]
        seen = await frontend.run("poison", [1, POISON, 2])
        assert isinstance(seen.error, Quarantined) and seen.failed and not seen.tokens
        assert sum(not life.alive for life in cluster.lives) == 2
        with pytest.raises(Quarantined):
            await frontend.submit("again", [1, POISON, 2])
        innocent = [await run for run in bystanders]
        for one in innocent:
            assert one.tokens == one.expected()
        assert_whole(await frontend.run("after", [3], 5), 5)
        assert sum(not life.alive for life in cluster.lives) == 2
        assert frontend.outcomes()[Outcome.QUARANTINED] >= 2
        await assert_clean(cluster, frontend)


# -- another frontend goes on


async def test_a_dropped_frontends_request_is_replayed_from_its_first_token_without_a_gap():
    async with MiniCluster(2) as cluster:
        lost = await cluster.frontend("f0")
        cluster.brake(12)
        run = asyncio.create_task(lost.run("r", [1, 2], 100, resume_key="t/r", tenant="t"))
        await eventually(lambda: "r" in lost.replies)
        await lost.replies["r"].wait_tokens(10)
        owner = lost.replies["r"].context.instance
        heir = await cluster.frontend("f1")
        await vanish(lost)
        run.cancel()
        assert await find(heir, "t/r", "somebody else") is None
        link, adopted = await eventually_found(heir, "t/r", "t")
        assert (link.instance_id, adopted.epoch) == (owner, 1)
        seen = heir.claim(link, adopted, "r2", [1, 2])
        cluster.brake(None)
        async with asyncio.timeout(30):
            await seen.done.wait()
        assert_whole(seen, 100)
        assert await find(heir, "t/r", "t") is None, "it has an owner again"
        heir.check_empty()
        assert await settled(cluster.check) == []


async def test_of_two_heirs_one_gets_it_and_the_other_is_told():
    async with MiniCluster(1) as cluster:
        lost = await cluster.frontend("f0")
        cluster.brake(4)
        asyncio.create_task(lost.run("r", [1, 2], 100, resume_key="t/r", tenant="t")).add_done_callback(
            lambda task: task.cancelled() or task.exception()
        )
        await eventually(lambda: "r" in lost.replies)
        await lost.replies["r"].wait_tokens(3)
        heirs = [await cluster.frontend("f1"), await cluster.frontend("f2")]
        await vanish(lost)
        found = [await eventually_found(heir, "t/r", "t") for heir in heirs]
        replies = [heir.claim(link, adopted, "r", [1, 2]) for heir, (link, adopted) in zip(heirs, found, strict=True)]
        cluster.brake(None)
        async with asyncio.timeout(30):
            for seen in replies:
                await seen.done.wait()
        loser, winner = sorted(replies, key=lambda seen: len(seen.tokens))
        assert_whole(winner, 100)
        assert loser.failed and "faster" in str(loser.error) and not loser.tokens
        for heir in heirs:
            heir.check_empty()


async def test_a_claimed_request_moves_on_when_its_instance_dies_too():
    async with MiniCluster(2) as cluster:
        lost = await cluster.frontend("f0")
        cluster.brake(22)
        run = asyncio.create_task(lost.run("r", [1, 2], 150, resume_key="t/r", tenant="t"))
        await eventually(lambda: "r" in lost.replies)
        await lost.replies["r"].wait_tokens(10)
        heir = await cluster.frontend("f1")
        await vanish(lost)
        run.cancel()
        link, adopted = await eventually_found(heir, "t/r", "t")
        seen = heir.claim(link, adopted, "r", [1, 2])
        await seen.wait_tokens(20)
        await cluster.instances[link.instance_id].kill()
        cluster.brake(None)
        async with asyncio.timeout(30):
            await seen.done.wait()
        assert_whole(seen, 150)
        heir.check_empty()


async def test_what_nobody_can_resume_ends_with_its_frontend():
    async with MiniCluster(1) as cluster:
        lost = await cluster.frontend("f0")
        run = asyncio.create_task(lost.run("r", [1, 2], 500))
        await eventually(lambda: "r" in lost.replies)
        await lost.replies["r"].wait_tokens(3)
        await vanish(lost)
        run.cancel()
        assert await settled(cluster.check) == []


async def test_a_stopped_frontend_tells_its_clients_and_leaves_its_resumable_requests_to_others():
    async with MiniCluster(1) as cluster:
        stopped = await cluster.frontend("f0")
        cluster.brake(4)
        run = asyncio.create_task(stopped.run("r", [1, 2], 100, resume_key="t/r", tenant="t"))
        await eventually(lambda: "r" in stopped.replies)
        await stopped.replies["r"].wait_tokens(3)
        await stopped.stop()
        seen = await run
        assert seen.failed and isinstance(seen.error, Unavailable)
        stopped.dispatcher.abort(["r"])  # its edge does so when its call ends
        with pytest.raises(Unavailable):
            await stopped.submit("late", [1])
        heir = await cluster.frontend("f1")
        link, adopted = await eventually_found(heir, "t/r", "t")
        resumed = heir.claim(link, adopted, "r", [1, 2])
        cluster.brake(None)
        async with asyncio.timeout(30):
            await resumed.done.wait()
        assert_whole(resumed, 100)


async def vanish(frontend):
    """As its process dies: streams end, nobody says anything."""
    await frontend.watch.close()
    frontend.dispatcher.ticker.cancel()
    for link in frontend.dispatcher.links.values():
        await link.close()


async def find(frontend, resume_key, tenant):
    dispatcher = frontend.dispatcher
    return await dispatcher.inquiries.find_orphan(dispatcher.links.values(), resume_key, tenant, 5.0)


async def eventually_found(frontend, resume_key, tenant):
    async with asyncio.timeout(10):
        while (found := await find(frontend, resume_key, tenant)) is None:
            await asyncio.sleep(0.02)
    return found


# -- hand-over moments


async def test_a_fault_between_assigning_and_sending_ends_that_request_only(points, caplog):
    async with MiniCluster(2) as cluster:
        frontend = await cluster.frontend()
        other = asyncio.create_task(frontend.run("other", [1], 60))
        await eventually(lambda: "other" in frontend.replies)
        for name in ("dispatcher.before_assign", "dispatcher.after_assign"):
            points.arm(name, "raise@1")
            seen = await frontend.run(name, [2])
            assert seen.error is not None and seen.error.http_status == 500
            assert points.hits(name) == 1
        assert_whole(await other, 60)
        assert frontend.outcomes() == {Outcome.LENGTH: 1, Outcome.ERROR: 2}
        assert "cannot be placed" in caplog.text
        await assert_clean(cluster, frontend)


@pytest.mark.parametrize("nth", [1, 2, 9])
async def test_a_fault_after_accepting_a_token_does_not_lose_it(nth, points, caplog):
    async with MiniCluster(2) as cluster:
        frontend = await cluster.frontend()
        points.arm("dispatcher.after_accept", f"raise@{nth}")
        assert_whole(await frontend.run("r", [3, 4], 12), 12)
        assert points.hits("dispatcher.after_accept") >= nth
        assert frontend.dispatcher.link_ends == {LinkEnd.CLOSED: 1}
        assert "cannot be taken in" in caplog.text
        await assert_clean(cluster, frontend)


async def test_steps_of_no_length_are_served_too():
    """Reports come as fast as the engine can."""
    fast = FAKE.model_copy(update={"a_ms": 0.0})
    async with MiniCluster(2, fake=fast) as cluster:
        frontend = await cluster.frontend()
        replies = await asyncio.gather(*(frontend.run(f"r{n}", [n], 300) for n in range(8)))
        for seen in replies:
            assert_whole(seen, 300)
        await assert_clean(cluster, frontend)
