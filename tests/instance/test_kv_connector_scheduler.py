"""The scheduler's half of the connector, event by event, over a block pool of plain objects."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from shoal.instance.kv_connector_scheduler import ANSWER_AGE_S, HELD_BLOCKS, Done, PoolScheduler


@dataclass
class FakeBlocks:
    """vLLM's BlockPool as far as it is used: touch and free, counted."""

    num_gpu_blocks: int = 512
    blocks: list = field(init=False)

    def __post_init__(self):
        self.blocks = [SimpleNamespace(block_id=i, ref_cnt=0, block_hash=None) for i in range(self.num_gpu_blocks)]

    def touch(self, blocks):
        for block in blocks:
            block.ref_cnt += 1

    def free_blocks(self, blocks):
        for block in blocks:
            block.ref_cnt -= 1

    def held(self) -> list[int]:
        return [block.block_id for block in self.blocks if block.ref_cnt]


def request(name: str = "r", blocks: int = 8, salt: str | None = "s"):
    hashes = [f"{name}{i}".encode().ljust(32) for i in range(blocks)]
    return SimpleNamespace(request_id=name, block_hashes=hashes, num_tokens=blocks * 4 + 1, cache_salt=salt)


class Half:
    def __init__(self, ranks: int = 1):
        self.blocks, self.now_s, self.asked = FakeBlocks(), 0.0, []
        self.half = PoolScheduler(
            self.ask,
            self.blocks,
            block_size=4,
            block_bytes=1000,
            budget_tokens=64,
            ranks=ranks,
            clock=lambda: self.now_s,
        )
        self.half.speeds.b_ms = 1e6  # computing is hopeless: fetch whatever is there

    def ask(self, salt, hashes):
        answer = Future()
        self.asked.append((salt, list(hashes), answer))
        return answer

    def load(self, one, found: int, local_blocks: int = 0):
        assert self.half.matched(one, local_blocks * 4) == (None, False)
        self.asked[-1][2].set_result(found)
        return self.half.matched(one, local_blocks * 4)


def test_the_scheduler_is_never_kept_waiting_for_the_pools_answer():
    it, one = Half(), request()
    assert it.half.matched(one, 8) == (None, False)
    assert it.half.matched(one, 8) == (None, False)
    assert [(salt, hashes) for salt, hashes, _ in it.asked] == [("s", one.block_hashes[2:])]
    it.asked[0][2].set_result(3)
    assert it.half.matched(one, 8) == (12, True)


def test_what_is_found_is_loaded_into_the_blocks_after_the_local_ones():
    it, one = Half(), request()
    assert it.load(one, found=3, local_blocks=2) == (12, True)
    it.half.allocated(one, block_ids=[7, 6, 5, 4, 3, 2], tokens=12)
    (load,), saves = it.half.take_work()
    assert (load.hashes, load.block_ids, load.salt) == (tuple(one.block_hashes[2:5]), (5, 4, 3), "s")
    assert saves == []
    it.half.allocated(one, block_ids=[7, 6, 5, 4, 3, 2], tokens=0)  # vLLM tells a second time
    assert it.half.take_work() == ([], [])


def test_a_full_hit_that_vllm_cut_by_a_token_still_loads_its_last_block():
    it, one = Half(), request()
    it.load(one, found=8)
    it.half.allocated(one, block_ids=list(range(9)), tokens=31)
    (load,), _ = it.half.take_work()
    assert len(load.hashes) == 8


def test_a_request_is_loaded_for_once_so_that_a_failed_load_is_computed():
    it, one = Half(), request()
    it.load(one, found=3)
    it.half.allocated(one, block_ids=list(range(9)), tokens=12)
    assert it.half.matched(one, 0) == (0, False)
    it.half.finished(one)
    assert it.half.matched(one, 0) == (None, False)


def test_an_old_answer_is_asked_for_again_and_so_is_one_for_another_local_hit():
    it, one = Half(), request()
    it.load(one, found=3)
    it.now_s = ANSWER_AGE_S + 0.1
    assert it.half.matched(one, 0) == (None, False)
    assert it.half.matched(one, 4) == (None, False)
    assert len(it.asked) == 3


def test_where_computing_is_cheaper_nothing_is_fetched():
    it, one = Half(), request()
    it.half.speeds.a_ms, it.half.speeds.b_ms = 1.0, 0.0
    assert it.load(one, found=3) == (0, False)


def test_sealed_blocks_are_held_until_the_worker_has_reported():
    it, one = Half(), request()
    it.half.sealed(one, block_ids=[10, 11, 12], computed_tokens=9)
    _, (save,) = it.half.take_work()
    assert (save.hashes, save.block_ids) == (tuple(one.block_hashes[:2]), (10, 11))
    assert it.blocks.held() == [10, 11]
    assert it.half.busy
    it.half.done(Done(saves={save.number: [(True, True)]}))
    assert (it.blocks.held(), it.half.busy, it.half.sightings.saved) == ([], False, 2)
    it.half.sealed(one, block_ids=[10, 11, 12], computed_tokens=12)
    _, (save,) = it.half.take_work()
    assert save.block_ids == (12,)


def test_under_tensor_parallelism_every_rank_must_have_reported():
    it, one = Half(ranks=2), request()
    it.half.sealed(one, block_ids=[10, 11], computed_tokens=8)
    _, (save,) = it.half.take_work()
    it.half.done(Done(saves={save.number: [(True, True)]}))
    assert it.blocks.held() == [10, 11]
    it.half.done(Done(saves={save.number: [(True, False)]}))
    assert it.blocks.held() == []
    both = Done([("r", 1.0, 5)], {1: [(True,)]}).merge(Done([("r", 2.0, 5)], {1: [(False,)], 2: [(True,)]}))
    assert both == Done([("r", 1.0, 5)], {1: [(True,), (False,)], 2: [(True,)]})


def test_a_refused_block_is_tried_again_at_its_next_use():
    it, one, two = Half(), request(), request()
    two.request_id = "other"
    it.half.sealed(one, block_ids=[10, 11], computed_tokens=8)
    _, (save,) = it.half.take_work()
    it.half.done(Done(saves={save.number: [(True, False)]}))
    it.half.sealed(two, block_ids=[20, 21], computed_tokens=8)
    _, (again,) = it.half.take_work()
    assert again.block_ids == (21,)


def test_only_so_many_blocks_are_held_at_a_time():
    it, one = Half(), request(blocks=HELD_BLOCKS + 50)
    it.half.sealed(one, block_ids=list(range(HELD_BLOCKS + 50)), computed_tokens=4 * (HELD_BLOCKS + 50))
    assert len(it.blocks.held()) == HELD_BLOCKS


def test_the_net_catches_what_was_used_twice_before_it_is_evicted():
    it, one, two = Half(), request(), request()
    two.request_id = "other"
    it.half.sightings.saved = 1000  # and none of it reused: a first sight is not worth it
    it.half.sealed(one, block_ids=[10, 11], computed_tokens=8)
    assert it.half.take_work() == ([], [])
    for block_id, block_hash in ((10, one.block_hashes[0]), (30, b"unknown")):
        it.blocks.blocks[block_id].block_hash = block_hash
    free = [it.blocks.blocks[n] for n in (9, 10, 30)]
    it.half.cast_net(free, hash_of=lambda block_hash: block_hash)
    assert it.half.take_work() == ([], [])
    it.half.sightings.see(one.block_hashes[0], "s")
    it.half.cast_net(free, hash_of=lambda block_hash: block_hash)
    _, (save,) = it.half.take_work()
    assert (save.block_ids, save.salt) == ((10,), "s")


@pytest.mark.parametrize("finished_first", [False, True])
def test_what_was_loaded_teaches_the_speeds_and_counts_as_reuse(finished_first):
    it, one = Half(), request()
    it.load(one, found=4)
    it.half.allocated(one, block_ids=list(range(9)), tokens=16)
    if finished_first:
        it.half.finished(one)
    before = it.half.speeds.overhead_ms
    it.half.done(Done(loads=[("r", 30.0, 4000)]))
    assert it.half.sightings.reused == 4
    assert it.half.loading == {}
    assert it.half.speeds.overhead_ms > before
