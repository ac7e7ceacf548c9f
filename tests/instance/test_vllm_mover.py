"""Requests that move between two real engines say what undisturbed ones say, and leave nothing behind on any side."""

from __future__ import annotations

import importlib
import random
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from shoal.instance.mover import Gone, NoRoom, Phase
from shoal.instance.seam import Refused, Submission
from shoal.proto.codec import FINISH_STOP
from shoal.proto.errors import BadMessage
from tests.instance.sampling_kinds import KINDS

if TYPE_CHECKING:
    from tests.instance.vllm_drive import Drive, Heard
    from tests.instance.vllm_pair import Pair

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:max_rollback_tokens is deprecated:DeprecationWarning"),
]

BLOCK = 32


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """Made when the first of these tests runs: to import vLLM takes tens of seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        pair = importlib.import_module("tests.instance.vllm_pair").Pair()
        yield pair
        pair.shutdown()


@pytest.fixture(autouse=True)
def nothing_is_left_behind(pair: Pair) -> Iterator[None]:
    yield
    pair.finish()
    assert pair.leftovers() == []


def prompt(tokens: int, seed: int = 1) -> list[int]:
    rng = random.Random(seed * 100_000 + tokens)
    return [rng.randrange(256) for _ in range(tokens)]


def wire_of(drive: Drive, kind: str, tokens: int, *, new_tokens: int = 40, **more: Any) -> bytes:
    return drive.wire_of_kind(kind, prompt(tokens), max_tokens=new_tokens, **more)


def forget(pair: Pair) -> None:
    """So that nothing is found in the target's cache."""
    for drive in (pair.a, pair.b):
        assert drive.engine.call("reset_prefix_cache", {}) is True
        drive.engine.take_block_changes()


def undisturbed(pair: Pair, wire: bytes) -> Heard:
    """What it says alone, where it stays. Each is asked once."""
    if wire not in pair.undisturbed:
        pair.undisturbed[wire] = pair.a.run(wire)
    return pair.undisturbed[wire]


def same(got: Heard, want: Heard) -> None:
    assert got.tokens == want.tokens
    assert got.end() == want.end()
    assert got.logprob_ids == want.logprob_ids
    assert got.logprobs == [pytest.approx(row, abs=1e-3) for row in want.logprobs]


def moved_after(pair: Pair, wire: bytes, tokens: int, **how: Any) -> Heard:
    started = pair.a.start(wire)
    pair.a.step_until(started, tokens)
    pair.hand_over(pair.a, started, wire, **how)
    pair.finish()
    return pair.a.heard[started]


# -- what it says


@pytest.mark.parametrize("kind", KINDS)
def test_a_moved_request_says_what_the_undisturbed_one_says(pair: Pair, kind: str) -> None:
    forget(pair)
    wire = wire_of(pair.a, kind, 500)
    got = moved_after(pair, wire, 9)
    same(got, undisturbed(pair, wire))
    assert len(got.tokens) > 20


@pytest.mark.parametrize("cut", [1, 31, 32, 33])
def test_it_may_be_cut_within_a_block_and_on_its_edge(pair: Pair, cut: int) -> None:
    forget(pair)
    wire = wire_of(pair.a, "seeded with penalties", 2 * BLOCK, new_tokens=48)
    same(moved_after(pair, wire, cut, stages=1), undisturbed(pair, wire))


def test_where_it_stops_does_not_change(pair: Pair) -> None:
    said = pair.a.run(wire_of(pair.a, "greedy", 70)).tokens
    stop = next(token for n, token in enumerate(said) if n > 26 and token not in said[:n])
    wire = wire_of(pair.a, "greedy", 70, stop_token_ids=[stop])
    got = moved_after(pair, wire, 8)
    assert (got.tokens, got.end()) == (said[: said.index(stop) + 1], (FINISH_STOP, stop))


def test_children_of_one_request_move_each_for_itself(pair: Pair) -> None:
    wires = [wire_of(pair.a, "seeded with penalties", 200, seed=seed) for seed in (7, 8)]
    started = [pair.a.start(wire) for wire in wires]
    pair.a.step_until(started[0], 10)
    pair.hand_over(pair.a, started[1], wires[1])
    pair.finish()
    for engine_id, wire in zip(started, wires, strict=True):
        same(pair.a.heard[engine_id], undisturbed(pair, wire))


def test_there_and_back_again(pair: Pair) -> None:
    forget(pair)
    wire = wire_of(pair.a, "seeded with penalties", 300, new_tokens=64)
    started = pair.a.start(wire)
    heard = pair.a.heard[started]
    pair.a.step_until(started, 10)
    there = pair.hand_over(pair.a, started, wire)
    pair.b.step_until(there, len(heard.tokens) + 10)
    pair.hand_over(pair.b, there, wire)
    pair.finish()
    same(heard, undisturbed(pair, wire))


def test_a_prompt_that_is_half_computed_moves_too(pair: Pair) -> None:
    forget(pair)
    wire = wire_of(pair.a, "greedy", 1500, new_tokens=20)
    started = pair.a.start(wire)
    for _ in range(2):  # of 256 tokens each
        pair.a.step()
    move = pair.move(pair.a, started, wire, stages=1)
    for _said in move:
        pass  # it stays half computed
    assert move.state is not None and move.state.output == () and move.state.computed_tokens == 512
    move.commit()
    pair.finish()
    same(pair.a.heard[started], undisturbed(pair, wire))


def split(pair: Pair, wire: bytes) -> Heard:
    """Prefilled at `a`, its blocks pushed to `b` while later chunks compute, handed over after the first token."""
    started = pair.a.start(wire)
    pair.a.step()
    move = pair.move(pair.a, started, wire)
    for said in move:
        if said == "copied" and not pair.a.heard[started].tokens:
            pair.a.step_until(started, 1)
    move.commit()
    pair.finish()
    return pair.a.heard[started]


@pytest.mark.parametrize("kind", ["greedy", "seeded with penalties", "json"])
def test_prefill_here_and_decode_there_say_what_one_instance_says(pair: Pair, kind: str) -> None:
    forget(pair)
    wire = wire_of(pair.a, kind, 700, new_tokens=24)
    same(split(pair, wire), pair.a.run(wire))


@pytest.mark.slow
@pytest.mark.parametrize("piece", range(10))
def test_prefill_here_and_decode_there_say_the_same_in_300_random_cases(pair: Pair, piece: int) -> None:
    rng = random.Random(piece)
    for _ in range(30):
        forget(pair)
        sampling: dict[str, Any] = {"seed": rng.randrange(1000)} if rng.random() < 0.5 else {"temperature": 0}
        told = {"max_tokens": rng.randint(3, 60), "ignore_eos": True, **sampling}
        wire = pair.a.wire(prompt(rng.choice([1, 31, 32, 33, rng.randint(2, 1500)]), rng.randrange(1000)), **told)
        same(split(pair, wire), pair.a.run(wire))


def test_the_target_computes_one_token_and_not_a_block(pair: Pair) -> None:
    wire = wire_of(pair.a, "greedy", 500)
    started = pair.a.start(wire)
    pair.a.step_until(started, 10)
    move = pair.move(pair.a, started, wire)
    for _said in move:
        pair.step()
    new_id = move.commit()
    assert pair.b.engine.load().queued_prefill_tokens == 1
    before = len(pair.a.heard[started].tokens)
    pair.b.step()
    assert len(pair.b.heard[new_id].tokens) == before + 1


def test_running_prompts_leave_room_for_one_that_has_come(pair: Pair) -> None:
    forget(pair)
    wire, long = wire_of(pair.a, "greedy", 200, new_tokens=24), wire_of(pair.b, "greedy", 2000, new_tokens=2)
    started = pair.a.start(wire)
    pair.a.step_until(started, 3)
    busy = pair.b.start(long)
    pair.b.step()
    move = pair.move(pair.a, started, wire, stages=1)
    for _said in move:
        pass
    new_id = move.commit()
    before = len(pair.b.heard[new_id].tokens)
    pair.b.step()  # the long prompt would take the whole budget of this step, and of six more
    assert len(pair.b.heard[new_id].tokens) == before + 1
    assert pair.b.heard[busy].tokens == []
    pair.finish()
    same(pair.a.heard[started], undisturbed(pair, wire))
    same(pair.b.heard[busy], undisturbed(pair, long))


# -- what is sent, and what the caches learn


def test_only_blocks_that_the_target_lacks_are_sent(pair: Pair) -> None:
    forget(pair)
    pair.b.run(pair.b.wire(prompt(500)[:320], max_tokens=1, temperature=0))
    wire = wire_of(pair.a, "greedy", 500)
    started = pair.a.start(wire)
    pair.a.step_until(started, 2)
    move = pair.move(pair.a, started, wire, stages=1)
    for _said in move:
        pair.step()
    move.commit()
    assert move.lease is not None and move.lease.missing[0] == 10
    pair.finish()
    same(pair.a.heard[started], undisturbed(pair, wire))


def test_sealed_blocks_enter_the_targets_cache_and_are_announced_once(pair: Pair) -> None:
    forget(pair)
    wire = wire_of(pair.a, "greedy", 300)
    names = [bytes(name) for name in pair.a.prepare(wire).native.block_hashes]
    moved_after(pair, wire, 5)
    announced = [name for change in pair.b.engine.take_block_changes() for name in change.hashes]
    assert announced[: len(names)] == names
    assert len(announced) == len(set(announced)) == (300 + 39) // BLOCK
    assert pair.b.engine.add(pair.b.prepare(wire)) is None
    assert pair.b.engine.load().queued_prefill_tokens == 300 % BLOCK
    pair.b.engine.abort([f"r{next(pair.b.numbers) - 1}@1"])


# -- what ends early


@pytest.mark.parametrize("last", ["leased", "copied", "parked", "held"])
def test_a_move_can_be_given_up_at_each_stage(pair: Pair, last: str) -> None:
    wire = wire_of(pair.a, "seeded with penalties", 300)
    want = undisturbed(pair, wire)
    forget(pair)
    started = pair.a.start(wire)
    pair.a.step_until(started, 12)
    move = pair.move(pair.a, started, wire)
    for said in move:
        if said == last:
            break
        pair.step()
    held = len(pair.a.heard[started].tokens)
    if last in ("parked", "held"):
        for _ in range(3):
            pair.step()
        assert len(pair.a.heard[started].tokens) == held
        assert pair.a.engine.mover.look(started).phase is Phase.MOVING
    move.undo()
    assert pair.b.all_free()
    pair.finish()
    same(pair.a.heard[started], want)


@pytest.mark.parametrize("how", ["finish", "abort", "preempt"])
@pytest.mark.parametrize("last", ["leased", "copied"])
def test_a_request_may_end_or_lose_its_blocks_while_it_is_copied(pair: Pair, how: str, last: str) -> None:
    wire = wire_of(pair.a, "greedy", 300)
    want = undisturbed(pair, wire)
    forget(pair)
    started = pair.a.start(wire)
    pair.a.step_until(started, 5)
    move = pair.move(pair.a, started, wire)
    stages = iter(move)
    while next(stages) != last:
        pass
    match how:
        case "finish":
            pair.a.finish()
        case "abort":
            pair.a.engine.abort([started])
        case "preempt":  # as the scheduler does it when blocks run out
            scheduler = pair.a.engine.scheduler
            scheduler._preempt_request(scheduler.running.pop(), 0.0)
    if how == "preempt":
        assert pair.a.engine.mover.look(started).sealed_blocks == 0
    else:
        with pytest.raises(Gone):
            pair.a.engine.mover.look(started)
        with pytest.raises(Gone):
            pair.a.engine.mover.park(started)
    move.undo()
    pair.finish()
    if how != "abort":
        same(pair.a.heard[started], want)


def test_a_parked_request_can_be_aborted(pair: Pair) -> None:
    started = pair.a.start(wire_of(pair.a, "greedy", 300))
    pair.a.step_until(started, 5)
    assert pair.a.engine.mover.park(started)
    pair.a.engine.abort([started])
    pair.a.engine.mover.unpark(started)
    pair.a.engine.mover.release(started)


def test_waiting_requests_leave_the_queue_and_return_to_their_place(pair: Pair) -> None:
    ids = [pair.a.start(pair.a.wire(prompt(40, n), max_tokens=2, changes={"arrival_time": float(n)})) for n in range(4)]
    waiting = pair.a.engine.scheduler.waiting
    assert pair.a.engine.mover.look(ids[1]).phase is Phase.WAITING
    assert pair.a.engine.mover.park(ids[1])
    assert [request.request_id for request in waiting] == [ids[0], *ids[2:]]
    assert pair.a.engine.mover.take_state(ids[1]).computed_tokens == 0
    pair.a.engine.mover.unpark(ids[1])
    assert [request.request_id for request in waiting] == ids
    assert pair.a.engine.mover.park(ids[2])
    pair.a.engine.mover.release(ids[2])
    pair.finish()
    assert [len(pair.a.heard[one].tokens) for one in ids] == [2, 2, 0, 2]


# -- what is refused


def leased(pair: Pair, tokens: int = 100) -> tuple[Any, bytes]:
    wire = wire_of(pair.b, "greedy", tokens)
    prepared = pair.b.engine.prepare(Submission("given", 1, wire, (1, 2)))
    hashes = [bytes(name) for name in prepared.native.block_hashes]
    return pair.b.engine.mover.lease(prepared, hashes), wire


def test_what_does_not_fit_or_does_not_match_is_refused(pair: Pair) -> None:
    forget(pair)
    mover = pair.b.engine.mover
    wire = wire_of(pair.b, "greedy", 100)
    with pytest.raises(Refused, match="other names"):
        mover.lease(pair.b.engine.prepare(Submission("given", 1, wire)), [b"x" * 32])
    lease, _ = leased(pair)
    with pytest.raises(BadMessage, match="have not come"):
        mover.seal(lease, 1)
    with pytest.raises(BadMessage, match="not awaited"):
        mover.write(lease, (77,), memoryview(bytearray(mover.block_bytes)))
    zero = memoryview(bytes(4 * mover.block_bytes))
    mover.write(lease, (0, 1, 2, 3), zero)
    with pytest.raises(BadMessage, match="not awaited"):  # no second time: it may be sealed and read by others
        mover.write(lease, (0,), zero)
    state = importlib.import_module("shoal.instance.mover").RequestState
    with pytest.raises(Refused, match="another one"):
        mover.hold(lease, state((1, 3), 101))
    for computed in (0, 102, 4000):
        with pytest.raises(BadMessage):
            mover.hold(lease, state((1, 2), computed))
    with pytest.raises(NoRoom):
        mover.adopt(lease, "given@2")
    mover.drop(lease)
    mover.drop(lease)
    assert pair.b.engine.call("reset_prefix_cache", {}) is True


def test_blocks_are_sealed_while_later_ones_are_written(pair: Pair) -> None:
    """`write` runs on another thread: here it never pauses, and there are many blocks."""
    blocks = 12_500
    module = importlib.import_module("shoal.instance.vllm_mover")
    leased = module.Leased(request=None, block_ids=list(range(blocks)), absent=set(range(1, blocks)))

    def write() -> None:
        for position in range(1, blocks):
            if leased.absent.issuperset((position,)):
                leased.absent.difference_update((position,))

    writer, before_s = threading.Thread(target=write), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        writer.start()
        while writer.is_alive():
            pair.b.engine.mover._check_whole(leased, 1)
    finally:
        sys.setswitchinterval(before_s)
        writer.join()


def test_no_room_is_said_and_costs_nothing(pair: Pair) -> None:
    free = pair.b.engine.load().free_blocks
    holds = [leased(pair, 4000)[0] for _ in range(free // 126)]
    with pytest.raises(NoRoom):
        leased(pair, 4000)
    for lease in holds:
        pair.b.engine.mover.drop(lease)
    assert pair.b.engine.load().free_blocks == free


def test_a_run_slot_is_kept_between_hold_and_adopt(pair: Pair) -> None:
    scheduler = pair.b.engine.scheduler
    scheduler.slots, before = 2, scheduler.slots
    wire = wire_of(pair.a, "greedy", 100)
    started = pair.a.start(wire)
    pair.a.step_until(started, 3)
    move = pair.move(pair.a, started, wire)
    for _said in move:
        pair.step()
    others = [pair.b.start(pair.b.wire(prompt(40, n), max_tokens=12, temperature=0)) for n in range(2)]
    pair.b.step()
    assert (pair.b.engine.load().running, pair.b.engine.load().waiting) == (1, 1)
    second = pair.a.start(wire)
    pair.a.step_until(second, 3)
    with pytest.raises(NoRoom, match="slot"):
        refused = pair.move(pair.a, second, wire)
        for _said in refused:
            pair.a.step()
    refused.undo()
    move.commit()
    pair.b.step()
    assert pair.b.engine.load().running == 2
    pair.finish()
    assert all(pair.b.heard[other].tokens for other in others)
    same(pair.a.heard[started], undisturbed(pair, wire))
    scheduler.slots = before


def test_reasons_that_a_request_cannot_move(pair: Pair) -> None:
    wire = pair.a.wire(prompt(600), max_tokens=4, temperature=0, prompt_logprobs=1)
    started = pair.a.start(wire)
    assert pair.a.engine.mover.look(started).unmovable == ""
    pair.a.step()
    assert "prompt" in pair.a.engine.mover.look(started).unmovable
    pair.a.step_until(started, 1)
    assert pair.a.engine.mover.look(started).unmovable == ""
    pair.finish()


def test_engines_that_may_exchange_blocks_have_one_fingerprint(pair: Pair) -> None:
    assert pair.a.engine.mover.fingerprint == pair.b.engine.mover.fingerprint
    model = pair.b.engine.core.model_executor.driver_worker.worker.model_runner.get_model()
    weight = next(iter(model.parameters())).data.view(-1)
    before = weight[0].clone()
    weight[0] += 1
    mover = pair.b.engine.mover
    other = mover._fingerprint()
    weight[0] = before
    assert other != mover.fingerprint == mover._fingerprint()


# -- all at once


def test_among_many_requests_several_move_at_a_time(pair: Pair) -> None:
    storm = importlib.import_module("tests.instance.vllm_storm").Storm(pair, 1, crowd=4, longest=800, longest_output=36)
    storm.run(moves=12)
    assert storm.differences() == []
