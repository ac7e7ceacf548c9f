"""The Attach stream over real gRPC: what a watcher is told, what it may rely on, and what ends it."""

import asyncio
import json
from collections.abc import AsyncIterator

import grpc
import pytest

from shoal.bench.fault_proxy import FaultProxy
from shoal.instance import watcher as watcher_module
from shoal.instance.block_keys import HASH_SEED, block_hashes
from shoal.instance.fake_tokens import reply
from shoal.instance.frames import TELL_BLOCKS
from shoal.instance.server import PROTOCOL
from shoal.proto import failpoints
from shoal.proto.codec import FINISH_LENGTH
from shoal.proto.v1 import instance_pb2 as pb
from tests.instance.peer import TOKEN, VOCABULARY, Instance, Peer, attached, submit

Status = grpc.StatusCode
LONG = 5000  # tokens: far more than any test lets an engine say


@pytest.fixture
async def instance() -> AsyncIterator[Instance]:
    async with Instance() as instance:
        yield instance


def said(tokens: int, prompt: tuple[int, ...] = (1, 2, 3)) -> list[int]:
    return reply(prompt, tokens, VOCABULARY)


def adopt(key: str = "key", tenant: str = "t") -> pb.Up:
    return pb.Up(adopt=pb.Adopt(resume_key=key, tenant=tenant))


def claim(request_id: str, epoch: int, key: str = "key", tenant: str = "t") -> pb.Up:
    return pb.Up(claim=pb.Claim(resume_key=key, tenant=tenant, request_id=request_id, epoch=epoch))


# -- who may attach


async def test_a_watcher_is_welcomed_with_all_that_a_router_needs(instance: Instance) -> None:
    instance.server.loras = ["a", "b"]
    async with attached(instance, "f1") as [peer]:
        info = instance.engine.info
        welcome = peer.welcome
        assert peer.frames[0].WhichOneof("frame") == "welcome"
        assert (welcome.protocol, welcome.instance_id, welcome.role, welcome.pid) == (PROTOCOL, "i0", "mixed", 77)
        assert (welcome.model, welcome.vllm_version, welcome.hash_seed) == ("m", "0.32.0", HASH_SEED)
        assert (welcome.block_size, welcome.total_blocks) == (info.block_size, info.total_blocks)
        assert (welcome.max_model_len, welcome.max_num_seqs) == (info.max_model_len, info.max_num_seqs)
        assert welcome.max_num_batched_tokens == info.max_num_batched_tokens
        assert list(welcome.loras) == ["a", "b"]
        assert welcome.load.free_blocks == welcome.load.total_blocks == info.total_blocks


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN + "x", TOKEN[:-1]])
async def test_without_the_cluster_token_nobody_attaches(instance: Instance, token: str | None) -> None:
    async with Peer(instance.address, token=token, speaks=False) as silent:
        assert (await silent.ended())[0] is Status.UNAUTHENTICATED
    async with Peer(instance.address, token=token) as peer:
        await peer.ended()  # gRPC's client may show the failure of its own write in place of the status
    assert instance.server.attached == 0


@pytest.mark.parametrize(
    ("protocol", "version"), [(PROTOCOL + 1, "0.32.0"), (0, ""), (PROTOCOL, "0.33.0"), (PROTOCOL, "0.32.1")]
)
async def test_a_peer_of_other_words_is_told_both_versions(instance: Instance, protocol: int, version: str) -> None:
    async with Peer(instance.address, protocol=protocol, version=version) as peer:
        code, words = await peer.ended()
    assert code is Status.FAILED_PRECONDITION
    assert f"protocol {PROTOCOL}, vLLM 0.32.0" in words
    assert f"protocol {protocol}, vLLM {version}" in words


async def test_the_first_frame_must_be_hello(instance: Instance) -> None:
    async with Peer(instance.address, first=submit()) as peer:
        assert (await peer.ended())[0] is Status.INVALID_ARGUMENT
    async with Peer(instance.address) as silent:
        silent.outbox.get_nowait()
        silent.outbox.put_nowait(None)
        assert (await silent.ended())[0] is Status.INVALID_ARGUMENT
    assert instance.server.attached == 0


async def test_a_watcher_without_a_vllm_hears_steps_and_load_but_no_blocks(instance: Instance) -> None:
    async with attached(instance, "f1") as [frontend], attached(instance, "controller", version="") as [controller]:
        frontend.send(submit(max_tokens=40))
        await frontend.until(frontend.finished)
        await controller.until(lambda: bool(controller.reports()) and controller.reports()[-1].step >= 40)
        assert frontend.believed_blocks()
        assert not any(report.blocks or report.outputs for report in controller.reports())


# -- output


async def test_every_token_comes_once_in_order_with_its_fence(instance: Instance) -> None:
    prompts = {f"r{n}": [n + 1] * (3 * n + 1) for n in range(20)}
    async with attached(instance, "f1") as [peer]:
        for n, (request_id, prompt) in enumerate(prompts.items()):
            peer.send(submit(request_id, prompt, epoch=n + 1, max_tokens=5 + n))
        await peer.until(lambda: all(peer.finished(request_id) for request_id in prompts))
        for n, (request_id, prompt) in enumerate(prompts.items()):
            assert peer.tokens(request_id, epoch=n + 1) == reply(prompt, 5 + n, VOCABULARY)
            assert [finish for *_, finish in peer.outputs()[request_id]] == [None] * (4 + n) + [FINISH_LENGTH]
        await instance.until(instance.all_free)
        assert not instance.server.holdings.by_engine_id


async def test_each_watcher_hears_its_own_requests_only(instance: Instance) -> None:
    instance.pace.hold()  # no request ends before both frontends have sent theirs
    async with attached(instance, "f1", "f2") as [one, two]:
        one.send(submit("a", [1], max_tokens=9))
        await one.turn()
        two.send(submit("a", [2], max_tokens=9))
        two.send(submit("b", [3], epoch=2, max_tokens=9))
        await two.turn()
        instance.pace.run()
        await two.until(lambda: two.finished("b"))
        await one.until(lambda: one.finished("a"))
    assert one.tokens("a") == said(9, (1,))
    assert two.tokens("b", epoch=2) == said(9, (3,))
    assert set(one.outputs()) == {"a"}
    # The same id and epoch is one engine request, so the second frontend that comes with it is refused, not mixed up.
    assert [(refused.request_id, refused.epoch, refused.client_fault) for refused in two.of("refused")] == [
        ("a", 1, False)
    ]


async def test_a_continued_request_goes_on_at_the_next_index(instance: Instance) -> None:
    async with attached(instance, "f1") as [peer]:
        peer.send(submit(epoch=3, delivered=tuple(said(7)), max_tokens=12))
        await peer.until(peer.finished)
        assert peer.tokens(epoch=3, start=7) == said(12)[7:]


async def test_a_repeated_submit_is_one_request_and_counts_as_taken_up(instance: Instance) -> None:
    instance.pace.hold()
    async with attached(instance, "f1") as [peer]:
        peer.send(submit(max_tokens=20), submit(max_tokens=20), submit(max_tokens=20))
        await peer.turn()
        instance.pace.run()
        await peer.until(peer.finished)
        await peer.until(lambda: peer.reports()[-1].accepted == 3)
        assert peer.tokens() == said(20)
        assert peer.of("refused") == []


async def test_a_later_epoch_from_the_same_watcher_replaces_the_earlier(instance: Instance) -> None:
    instance.pace.hold()
    async with attached(instance, "f1") as [peer]:
        peer.send(submit(epoch=1, max_tokens=LONG))
        instance.pace.let(3)
        await peer.until(lambda: len(peer.outputs()["r"]) == 3)
        peer.send(submit(epoch=2, delivered=tuple(said(3)), max_tokens=6))
        await peer.turn()
        instance.pace.run()
        await peer.until(peer.finished)
        await instance.until(instance.all_free)
    heard = peer.outputs()["r"]
    assert [token for epoch, _, new, _ in heard for token in new if epoch == 2] == said(6)[3:]
    assert [epoch for epoch, *_ in heard] == [1] * 3 + [2] * 3


# -- load and acknowledgement


async def test_accepted_is_never_ahead_of_the_load_that_includes_it(instance: Instance) -> None:
    async with attached(instance, "f1") as [peer]:
        for n in range(150):
            peer.send(submit(f"r{n}", [n], max_tokens=1 + n % 7))
        await peer.until(lambda: sum(peer.finished(f"r{n}") for n in range(150)) == 150)
        ended = 0
        for report in peer.reports():
            ended += len(report.epochs)  # an upper bound of those that ended: each output may be a last one
            assert report.accepted <= ended + report.load.running + report.load.waiting
        await peer.until(lambda: peer.reports()[-1].accepted == 150)


async def test_refused_submits_count_as_accepted_too(instance: Instance) -> None:
    async with attached(instance, "f1") as [peer]:
        peer.send(pb.Up(submit=pb.Submit(request_id="bad", epoch=1, request=b"\xc1")), submit(max_tokens=2))
        await peer.until(peer.finished)
        await peer.until(lambda: peer.reports()[-1].accepted == 2)
        assert [refused.request_id for refused in peer.of("refused")] == ["bad"]


async def test_counts_begin_anew_with_each_stream(instance: Instance) -> None:
    async with attached(instance, "f1") as [peer]:
        peer.send(submit("a", max_tokens=2), submit("b", max_tokens=2))
        await peer.until(lambda: peer.reports()[-1:] != [] and peer.reports()[-1].accepted == 2)
    async with attached(instance, "f1") as [peer]:
        await peer.until(lambda: bool(peer.reports()))
        assert {report.accepted for report in peer.reports()} == {0}
    await instance.until(lambda: not instance.server.watchers and not instance.server.intake.accepted)


async def test_an_idle_instance_is_heard_of_again_and_again(instance: Instance) -> None:
    async with attached(instance, "f1") as [peer]:
        await peer.until(lambda: len(peer.reports()) >= 4)
        reports = peer.reports()
        assert {report.step for report in reports} == {0}
        assert not any(report.load.stepping or report.outputs for report in reports)
        assert [report.sent_s for report in reports] == sorted({report.sent_s for report in reports})


async def test_a_step_that_does_not_end_is_reported_as_stepping(instance: Instance) -> None:
    instance.pace.hold()
    async with attached(instance, "f1") as [peer]:
        peer.send(submit(max_tokens=2))
        await peer.until(lambda: any(report.load.stepping for report in peer.reports()))
        heard = len(peer.reports())
        await peer.until(lambda: len(peer.reports()) >= heard + 3)
        assert {report.step for report in peer.reports()[heard:]} == {0}
        instance.pace.run()
        await peer.until(peer.finished)
        await peer.until(lambda: not peer.reports()[-1].load.stepping)


# -- blocks


async def test_a_late_watcher_is_told_the_whole_cache_and_then_the_same_news(instance: Instance) -> None:
    prompt = list(range(40))
    async with attached(instance, "early") as [early]:
        early.send(submit("a", prompt, max_tokens=9))
        await early.until(lambda: early.finished("a"))
        async with attached(instance, "late") as [late]:
            await late.until(lambda: bool(late.reports()))
            cached = set(block_hashes([*prompt, *reply(prompt, 8, VOCABULARY)], 4))
            assert late.believed_blocks() == set(instance.server.blocks.cached) == cached
            early.send(submit("b", [9] * 30, max_tokens=9))
            await early.until(lambda: early.finished("b"))
            await late.until(lambda: late.believed_blocks() == set(instance.server.blocks.cached))
            await early.until(lambda: early.believed_blocks() == late.believed_blocks())
            assert late.believed_blocks() > cached
            sequence = instance.server.blocks.sequence
            await late.until(lambda: late.reports()[-1].block_sequence == sequence)


async def test_a_watcher_that_asks_is_told_the_whole_cache_anew(instance: Instance) -> None:
    async with attached(instance, "f") as [peer]:
        peer.send(submit("a", list(range(40)), max_tokens=9))
        await peer.until(lambda: peer.finished("a"))
        await peer.until(lambda: peer.believed_blocks() == set(instance.server.blocks.cached))
        told = len(peer.reports())
        peer.send(pb.Up(call=pb.Call(method=TELL_BLOCKS)))
        await peer.until(lambda: any(report.blocks for report in peer.reports()[told:]))
        anew = next(report for report in peer.reports()[told:] if report.blocks)
        assert anew.blocks[0].kind == pb.BlockChange.CLEARED
        assert {h for change in anew.blocks for h in change.hashes} == set(instance.server.blocks.cached)


async def test_blocks_that_are_evicted_leave_every_index() -> None:
    async with Instance(total_blocks=16, max_model_len=64) as instance, attached(instance, "f1", "f2") as peers:
        for n in range(12):
            peers[0].send(submit(f"r{n}", [n] * 30, max_tokens=3))
        await peers[0].until(lambda: all(peers[0].finished(f"r{n}") for n in range(12)))
        await instance.until(instance.all_free)
        engine_has = set(instance.engine._model.blocks._cache._refs)
        for peer in peers:
            await peer.until(lambda peer=peer: peer.believed_blocks() == engine_has)
        assert len(engine_has) <= 16


# -- ends of requests and streams


async def test_an_abort_frees_the_blocks_and_ends_the_output(instance: Instance) -> None:
    async with attached(instance, "f1") as [peer]:
        peer.send(submit("a", max_tokens=LONG), submit("b", max_tokens=LONG))
        await peer.until(lambda: len(peer.outputs()["a"]) > 5 and len(peer.outputs()["b"]) > 5)
        peer.send(pb.Up(abort=pb.Abort(request_ids=["a", "unknown", "a"])))
        await peer.turn()
        await peer.until(lambda: peer.reports()[-1].load.running == 1)
        heard = len(peer.outputs()["a"])
        peer.send(pb.Up(abort=pb.Abort(request_ids=["b"])))
        await instance.until(instance.all_free)
        await peer.turn()
        assert len(peer.outputs()["a"]) == heard
        assert not peer.finished("a")
        assert not instance.server.holdings.by_engine_id


async def test_the_end_of_a_stream_aborts_its_requests_but_those_that_may_be_resumed(instance: Instance) -> None:
    async with attached(instance, "f1") as [peer]:
        peer.send(submit("plain", max_tokens=LONG), submit("kept", key="key", max_tokens=LONG))
        await peer.until(lambda: bool(peer.outputs()["plain"] and peer.outputs()["kept"]))
    await instance.until(lambda: list(instance.server.holdings.by_engine_id) == ["kept@1"])
    await instance.until(lambda: instance.server.load.running == 1)
    await instance.until(lambda: not instance.server.watchers)


async def test_an_orphan_nobody_adopts_is_aborted_in_the_end(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal.instance.holdings.KEEP_S", 0.2)
    instance.pace.hold()
    async with attached(instance, "f1") as [peer]:
        peer.send(submit("kept", key="key", max_tokens=LONG))
        await peer.turn()
    await instance.until(lambda: not instance.server.holdings.by_engine_id)
    instance.pace.run()
    await instance.until(instance.all_free)


async def test_the_same_watcher_again_replaces_its_stream_and_ends_its_requests(instance: Instance) -> None:
    async with attached(instance, "f1", "f2") as [former, other]:
        former.send(submit("plain", max_tokens=LONG), submit("kept", key="key", max_tokens=LONG))
        other.send(submit("theirs", max_tokens=LONG))
        await former.until(lambda: bool(former.outputs()["plain"] and former.outputs()["kept"]))
        await other.until(lambda: bool(other.outputs()["theirs"]))
        async with attached(instance, "f1") as [latter]:
            assert (await former.ended())[0] is Status.ABORTED
            assert list(instance.server.holdings.by_engine_id) == ["theirs@1"]
            former.send(submit("too late"))
            latter.send(submit("new", max_tokens=5))
            await latter.until(lambda: latter.finished("new"))
            assert latter.tokens("new") == said(5)
            assert list(latter.outputs()) == ["new"]
            assert len(instance.server.watchers) == 2


async def test_what_a_stream_says_after_its_end_is_not_taken_up(instance: Instance) -> None:
    async with attached(instance, "f1") as [peer]:
        [watcher] = instance.server.watchers.values()
    await instance.until(lambda: not instance.server.watchers)

    async def late() -> AsyncIterator[pb.Up]:
        yield submit("late", key="key")

    await instance.server._read(watcher, late())
    assert not instance.server.holdings.by_engine_id
    assert not peer.outputs()


async def test_a_frontend_that_lost_its_stream_and_returns_ends_what_it_left_running(instance: Instance) -> None:
    async with attached(instance, "f1") as [peer]:
        peer.send(submit("left", key="key", max_tokens=LONG))
        await peer.until(lambda: bool(peer.outputs()["left"]))
    await instance.until(lambda: not instance.server.watchers)
    async with attached(instance, "f1"):
        await instance.until(instance.all_free)
        assert not instance.server.holdings.by_engine_id


async def test_a_stopping_instance_ends_its_streams_and_says_so() -> None:
    async with Instance() as instance:
        async with attached(instance, "f1") as [peer]:
            await instance.server.stop()
            code, words = await peer.ended()
            assert code is Status.UNAVAILABLE
            assert "stopping" in words


async def test_a_reader_that_does_not_read_is_cut_off_while_others_go_on(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher_module, "MAX_FRAMES", 150)
    instance.pace.step_s = 0.005  # the quick one shares this loop: it must not fall so far behind on a busy machine
    async with attached(instance, "f2") as [quick], Peer(instance.address, "f1", reads=False) as slow:
        slow.send(*(submit(f"s{n}", [n], max_tokens=8000) for n in range(60)))
        quick.send(submit("q", [7], max_tokens=8000))
        await instance.until(lambda: instance.server.attached == 2)
        # Cut at once, not when it reads again: else its requests would run on, and nobody could adopt them.
        await instance.until(lambda: [w.watcher_id for w in instance.server.watchers.values()] == ["f2"])
        assert list(instance.server.holdings.by_engine_id) == ["q@1"]
        heard = len(quick.tokens("q"))
        await quick.until(lambda: len(quick.outputs()["q"]) > heard + 20)
        assert quick.tokens("q") == said(len(quick.tokens("q")), (7,))
        assert instance.server.load.running == 1
        await slow.read_to_the_end()
        assert slow.end is not None
        assert slow.end.code() is Status.RESOURCE_EXHAUSTED


async def test_a_frontend_that_is_cut_off_without_a_word_loses_its_stream_and_its_requests_can_be_adopted(
    instance: Instance,
) -> None:
    async with FaultProxy("127.0.0.1", instance.port) as proxy, Peer(f"127.0.0.1:{proxy.port}", "f1") as lost:
        lost.send(submit("kept", key="key", max_tokens=8))
        await lost.until(lambda: lost.finished("kept"))
        proxy.up.faults.black_hole = proxy.down.faults.black_hole = True
        await instance.until(lambda: not instance.server.watchers)
        assert proxy.down.counts.swallowed_bytes > 0
        async with attached(instance, "f2") as [finder]:
            finder.send(adopt())
            await finder.until(lambda: bool(finder.of("adopted")))
            assert finder.of("adopted")[0].found


async def test_a_stream_that_breaks_inside_ends_alone(instance: Instance) -> None:
    async with attached(instance, "f1", "f2") as [one, two]:
        one.send(submit("a", max_tokens=LONG))
        await one.until(lambda: bool(one.outputs()["a"]))
        failpoints.arm("instance.submit", "raise")
        try:
            one.send(submit("b"))
            assert (await one.ended())[0] is Status.INTERNAL
        finally:
            failpoints.clear()
        two.send(submit("c", max_tokens=5))
        await two.until(lambda: two.finished("c"))
        await instance.until(instance.all_free)


# -- refusals


async def test_what_cannot_be_served_is_refused_with_the_reason_and_the_stream_goes_on(instance: Instance) -> None:
    async with attached(instance, "f1") as [peer]:
        peer.send(
            pb.Up(submit=pb.Submit(request_id="garbage", epoch=5, request=b"\xff\x00garbage")),
            pb.Up(submit=pb.Submit(request_id="nothing", epoch=6)),
            submit("long", [1] * 9000, epoch=7),
            submit("none", max_tokens=0),
            submit("good", max_tokens=3),
        )
        await peer.until(lambda: peer.finished("good"))
        refused = {one.request_id: one for one in peer.of("refused")}
        assert {name: (one.epoch, one.client_fault) for name, one in refused.items()} == {
            "garbage": (5, False),
            "nothing": (6, False),
            "long": (7, True),
            "none": (1, True),
        }
        assert "8192" in refused["long"].reason and "9000" in refused["long"].reason
        assert list(peer.outputs()) == ["good"]
        assert not instance.server.holdings.by_engine_id


async def test_an_engine_that_trips_over_a_request_refuses_that_one_only(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, add = instance.engine.prepare, instance.engine.add

    def tripping(act: object) -> object:
        def run(subject: object) -> object:
            if subject.engine_id.startswith(act.__name__):  # type: ignore[attr-defined]
                raise AssertionError("unforeseen")
            return act(subject)  # type: ignore[operator]

        return run

    monkeypatch.setattr(instance.engine, "prepare", tripping(prepare))
    monkeypatch.setattr(instance.engine, "add", tripping(add))
    async with attached(instance, "f1") as [peer]:
        peer.send(submit("prepare"), submit("add"), submit("good", max_tokens=3))
        await peer.until(lambda: peer.finished("good") and len(peer.of("refused")) == 2)
        assert {one.request_id: one.client_fault for one in peer.of("refused")} == {"prepare": False, "add": False}
        assert all("unforeseen" in one.reason for one in peer.of("refused"))
        assert not instance.server.holdings.by_engine_id
        assert instance.deaths == []


# -- resumption through another frontend


async def test_an_orphan_is_found_claimed_and_heard_from_its_first_token_on(instance: Instance) -> None:
    instance.pace.hold()
    async with attached(instance, "f1") as [former]:
        former.send(submit("r", epoch=4, delivered=tuple(said(3)), key="key", max_tokens=20))
        instance.pace.let(4)
        await former.until(lambda: len(former.outputs()["r"]) == 4)
    async with attached(instance, "f2") as [adopter]:
        await instance.until(lambda: len(instance.server.watchers) == 1)
        adopter.send(adopt(tenant="other"), adopt("other key"), adopt())
        await adopter.until(lambda: len(adopter.of("adopted")) == 3)
        wrong_tenant, wrong_key, found = adopter.of("adopted")
        assert not wrong_tenant.found and not wrong_key.found
        assert (found.found, found.epoch, found.resume_context) == (True, 4, b"context of r")
        assert found.request == submit("r", max_tokens=20).submit.request
        adopter.send(claim("mine", 5))
        await adopter.until(lambda: bool(adopter.outputs()["mine"]))
        assert adopter.tokens("mine", epoch=5)[:3] == said(3)
        instance.pace.run()
        await adopter.until(lambda: adopter.finished("mine"))
        assert adopter.tokens("mine", epoch=5) == said(20)


async def test_a_finished_request_whose_frontend_died_is_replayed_to_its_end(instance: Instance) -> None:
    async with attached(instance, "f1") as [former]:
        former.send(submit("r", key="key", max_tokens=7))
        await former.until(former.finished)
    await instance.until(lambda: not instance.server.watchers)
    async with attached(instance, "f2") as [adopter]:
        adopter.send(adopt(), claim("mine", 2))
        await adopter.until(lambda: adopter.finished("mine"))
        assert adopter.of("adopted")[0].found
        assert adopter.tokens("mine", epoch=2) == said(7)


async def test_only_one_of_two_claimers_gets_it(instance: Instance) -> None:
    instance.pace.hold()
    async with attached(instance, "f1") as [former]:
        former.send(submit("r", key="key", max_tokens=9))
        await former.turn()
    await instance.until(lambda: not instance.server.watchers)
    async with attached(instance, "f2", "f3") as [first, second]:
        first.send(claim("one", 2))
        await first.turn()
        second.send(claim("two", 2), claim("two", 3), adopt())
        await second.until(lambda: len(second.of("refused")) == 2 and bool(second.of("adopted")))
        assert not second.of("adopted")[0].found
        assert all(one.client_fault and one.request_id == "two" for one in second.of("refused"))
        instance.pace.run()
        await first.until(lambda: first.finished("one"))
        assert first.tokens("one", epoch=2) == said(9)
        assert not second.outputs()


async def test_a_request_whose_frontend_lives_cannot_be_taken_away(instance: Instance) -> None:
    instance.pace.hold()
    async with attached(instance, "f1", "f2") as [owner, thief]:
        owner.send(submit("r", key="key", max_tokens=9))
        await owner.turn()
        thief.send(adopt(), claim("mine", 2))
        await thief.until(lambda: bool(thief.of("adopted") and thief.of("refused")))
        assert not thief.of("adopted")[0].found
        instance.pace.run()
        await owner.until(owner.finished)


async def test_an_adopted_request_can_be_aborted_by_its_new_name(instance: Instance) -> None:
    instance.pace.hold()
    async with attached(instance, "f1") as [former]:
        former.send(submit("r", key="key", max_tokens=LONG))
        await former.turn()
    await instance.until(lambda: not instance.server.watchers)
    async with attached(instance, "f2") as [adopter]:
        adopter.send(claim("mine", 2), pb.Up(abort=pb.Abort(request_ids=["mine"])))
        await adopter.turn()
        instance.pace.run()
        await instance.until(instance.all_free)
        assert not instance.server.holdings.by_engine_id


# -- rare acts, and the death of the engine


async def test_every_call_is_answered_with_a_result_or_the_reason(instance: Instance) -> None:
    calls = [
        ("list_loras", "{}"),
        ("list_loras", ""),
        ("add_lora", "{}"),
        ("list_loras", "{"),
        ("reset_prefix_cache", "[]"),
    ]
    async with attached(instance, "f1") as [peer]:
        for number, (method, arguments) in enumerate(calls):
            peer.send(pb.Up(call=pb.Call(call_id=number, method=method, arguments_json=arguments)))
        await peer.until(lambda: len(peer.of("reply")) == len(calls))
        replies = {one.call_id: one for one in peer.of("reply")}
        assert json.loads(replies[0].result_json) == json.loads(replies[1].result_json) == []
        assert "adapters" in replies[2].error
        assert "JSON" in replies[3].error
        assert json.loads(replies[4].result_json) is True


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_when_the_engine_dies_the_owner_of_the_process_is_told_once_and_calls_fail(instance: Instance) -> None:
    async with attached(instance, "f1") as [peer]:
        peer.send(submit("poison", [1, 666]))
        await instance.until(lambda: bool(instance.deaths))
        peer.send(pb.Up(call=pb.Call(call_id=1, method="list_loras")), submit("late"))
        await peer.until(lambda: bool(peer.of("reply")))
        assert "EngineDied" in peer.of("reply")[0].error
        await asyncio.sleep(0)
        assert instance.deaths == ["Died: poisoned"]
