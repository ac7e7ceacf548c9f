"""Parked requests and promised slots, in vLLM's scheduler with and without batches in flight: nothing is lost, repeated
or left behind. The runner is played, see bare_scheduler.py.
"""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from shoal.instance.vllm_flags import set_vllm_environment

if TYPE_CHECKING:
    from tests.instance.bare_scheduler import Bare

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

BLOCK = 16


@pytest.fixture(scope="module")
def bare() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        set_vllm_environment()
        yield importlib.import_module("tests.instance.bare_scheduler")


@pytest.fixture(params=[1, 2], ids=["sync", "async"])
def one(bare: Any, request: pytest.FixtureRequest) -> Any:
    made = bare.Bare(depth=request.param)
    free = made.free_blocks()
    yield made
    made.finish()
    assert (made.scheduler.parked, made.scheduler.requests) == ({}, {})
    assert made.free_blocks() == free


def wanted(prompt_tokens: int, max_tokens: int = 12) -> list[int]:
    return [position * 7 % 251 for position in range(prompt_tokens, prompt_tokens + max_tokens)]


def park(one: Bare, name: str) -> int:
    """Returns how many tokens it had when its last batch was back."""
    while not one.scheduler.park(one.scheduler.requests[name]):
        one.step()
    return len(one.said[name])


# -- out and back


def test_the_class_is_the_one_that_vllm_would_have_picked_and_more(one: Bare) -> None:
    one.config.scheduler_config.scheduler_cls = None
    assert isinstance(one.scheduler, one.config.scheduler_config.get_scheduler_cls())


@pytest.mark.parametrize("after", range(1, 9))
def test_parked_and_put_back_it_says_the_same(one: Bare, after: int) -> None:
    one.add("a", 40)
    one.add("b", 150)  # three chunks of prompt
    for _ in range(after):
        one.step()
    for name in ("a", "b"):
        said = park(one, name) if name in one.scheduler.requests else 0
        for _ in range(4):
            one.step()
        assert name in one.ended or len(one.said[name]) == said
        one.scheduler.unpark(name)
    one.finish()
    assert (one.said["a"], one.said["b"]) == (wanted(40), wanted(150))


def test_others_go_on_while_one_is_parked(one: Bare) -> None:
    one.add("a", 40)
    one.add("b", 40)
    one.step()
    said = park(one, "a")
    for _ in range(20):
        one.step()
    assert one.said["b"] == wanted(40)
    assert len(one.said["a"]) == said
    assert not one.scheduler.has_requests() and not one.flying  # a parked one alone is no work
    one.scheduler.unpark("a")
    one.finish()
    assert one.said["a"] == wanted(40)


def test_with_a_connector_a_parked_one_alone_is_no_work_either(one: Bare) -> None:
    one.add("a", 40)
    one.step()
    park(one, "a")
    while one.flying:
        one.land()
    one.scheduler.connector = SimpleNamespace()
    assert not one.scheduler.has_finished_requests()
    one.scheduler.connector = None
    one.scheduler.unpark("a")


def test_a_parked_one_keeps_its_slot_and_a_promise_takes_one(bare: Any) -> None:
    one = bare.Bare(depth=1, slots=2)
    one.add("a", 20)
    one.add("b", 20)
    one.step()
    park(one, "a")
    one.add("c", 20)
    one.step()
    assert [request.request_id for request in one.scheduler.running] == ["b"]
    assert not one.scheduler.promise_slot()
    one.abort("a")
    one.step()
    assert {request.request_id for request in one.scheduler.running} == {"b", "c"}
    one.abort("b")
    assert one.scheduler.promise_slot()
    one.add("d", 20)
    one.step()
    assert {request.request_id for request in one.scheduler.running} == {"c"}
    one.scheduler.promised -= 1
    one.finish()
    assert (one.said["c"], one.said["d"]) == (wanted(20), wanted(20))


# -- with tokens in flight


@pytest.fixture
def flying(bare: Any) -> Any:
    """Two batches away, each with a token of `a` and of `b`."""
    made = bare.Bare(depth=2)
    free = made.free_blocks()
    made.add("a", 40)
    made.add("b", 40, 30)
    made.step()
    made.step()
    made.launch()
    yield made
    made.finish()
    assert (made.scheduler.parked, made.scheduler.requests) == ({}, {})
    assert made.free_blocks() == free


def test_tokens_in_flight_still_arrive_and_then_no_more(flying: Bare) -> None:
    request, had = flying.scheduler.requests["a"], len(flying.said["a"])
    away = len(flying.flying)
    for left in range(away, 0, -1):
        assert not flying.scheduler.park(request), left
        flying.land()
    assert flying.scheduler.park(request)
    assert len(flying.said["a"]) == had + away
    assert request.num_computed_tokens == request.num_tokens - 1  # the newest token is yet to be computed
    plan = flying.launch()
    assert set(plan.num_scheduled_tokens) == {"b"}
    flying.scheduler.unpark("a")
    flying.finish()
    assert (flying.said["a"], flying.said["b"]) == (wanted(40), wanted(40, 30))


def test_undone_at_once_it_never_missed_a_step(flying: Bare) -> None:
    flying.scheduler.park(flying.scheduler.requests["a"])
    flying.scheduler.unpark("a")
    flying.land()
    assert set(flying.launch().num_scheduled_tokens) == {"a", "b"}
    flying.finish()
    assert (flying.said["a"], flying.said["b"]) == (wanted(40), wanted(40, 30))


def test_a_token_in_flight_may_be_its_last(flying: Bare) -> None:
    request = flying.scheduler.requests["a"]
    request.max_tokens = len(flying.said["a"]) + 1
    assert not flying.scheduler.park(request)
    while flying.flying:
        flying.land()
    assert request.is_finished()
    assert flying.scheduler.parked == {}
    flying.scheduler.unpark("a")  # too late, and of no consequence
    assert [other.request_id for other in flying.scheduler.running] == ["b"]
    flying.finish()
    assert flying.ended["a"] == "length"
    assert flying.said["a"] == wanted(40)[: request.max_tokens]
    assert flying.said["b"] == wanted(40, 30)


def test_it_may_be_aborted_meanwhile(flying: Bare) -> None:
    had = list(flying.said["a"])
    assert not flying.scheduler.park(flying.scheduler.requests["a"])
    flying.abort("a")
    flying.scheduler.unpark("a")
    flying.finish()
    assert flying.said["a"] == had
    assert flying.said["b"] == wanted(40, 30)


def test_a_chunk_in_flight_is_computed_before_it_counts_as_sealed(bare: Any) -> None:
    sealed_blocks = importlib.import_module("shoal.instance.vllm_sight").sealed_blocks
    one = bare.Bare(depth=2)
    request = one.add("a", 150)
    one.launch()
    one.launch()
    assert (request.num_computed_tokens, sealed_blocks(request, BLOCK)) == (128, 0)
    assert not one.scheduler.park(request)
    one.land()
    assert sealed_blocks(request, BLOCK) == 4
    one.land()
    assert one.scheduler.park(request)
    assert sealed_blocks(request, BLOCK) == 8
    one.scheduler.unpark("a")
    one.finish()
    assert one.said["a"] == wanted(150)


# -- what the mover asks of vLLM's block manager


def shadow(one: Bare, tokens: int) -> Any:
    return one.request("lease-1", list(range(tokens)))


def install(one: Bare, request: Any, whole: int) -> None:
    """As the mover does it for `whole` blocks that come from elsewhere."""
    hit, hit_tokens, boundary = one.cache.get_computed_blocks(request)
    assert boundary == 0
    got = one.cache.allocate_slots(
        request,
        request.num_tokens - whole * BLOCK + 1,
        num_new_computed_tokens=hit_tokens,
        new_computed_blocks=one.cache.truncate_computed_blocks(hit, hit_tokens),
        num_external_computed_tokens=whole * BLOCK - hit_tokens,
        delay_cache_blocks=True,
        skip_zeroing_group_ids=(0,),
    )
    assert got is not None


def test_blocks_from_elsewhere_are_held_announced_once_and_found(one: Bare) -> None:
    free, request = one.free_blocks(), shadow(one, 70)
    install(one, request, 4)
    assert one.free_blocks() == free - 5
    assert not one.cache.take_events()
    one.cache.cache_blocks(request, 2 * BLOCK)
    one.cache.cache_blocks(request, 4 * BLOCK)
    announced = [name for event in one.cache.take_events() for name in event.block_hashes]
    assert len(announced) == len(set(announced)) == 4
    one.cache.free(request)
    assert one.free_blocks() == free
    assert one.cache.get_computed_blocks(shadow(one, 70))[1] == 4 * BLOCK
    again = shadow(one, 70)
    install(one, again, 4)
    assert not one.cache.take_events()
    one.cache.free(again)


def test_renamed_it_takes_its_blocks_along(one: Bare) -> None:
    free, request = one.free_blocks(), shadow(one, 70)
    install(one, request, 4)
    one.cache.cache_blocks(request, 64)
    (table,) = one.cache.coordinator.single_type_managers
    held = [block.block_id for block in table.req_to_blocks["lease-1"]]
    one.scheduler.rename(request, "a@2")
    assert [block.block_id for block in one.cache.get_blocks("a@2").blocks[0]] == held
    assert (set(table.req_to_blocks), table.num_cached_block) == ({"a@2"}, {"a@2": 4})
    one.cache.free(request)
    assert one.free_blocks() == free


def test_one_that_has_come_computes_one_token_in_the_next_step(one: Bare) -> None:
    status = importlib.import_module("shoal.instance.vllm_seam").RequestStatus
    one.add("long", 400, 2)
    one.step()
    request = shadow(one, 70)
    request.append_output_token_ids([5, 6])
    install(one, request, 4)
    one.scheduler.rename(request, "a@2")
    request.num_computed_tokens, request.status = 71, status.PREEMPTED
    request.num_preemptions, request.prefill_stats = 1, None
    one.said["a@2"] = []
    one.scheduler.add_request(request)
    assert list(one.scheduler.kv_holding_waiting) == [request]
    plan = one.launch()  # the long prompt alone would fill it
    assert plan.num_scheduled_tokens == {"a@2": 1}
    one.finish()
    assert one.said["a@2"] == wanted(72, 10)
    assert one.said["long"] == wanted(400, 2)


def test_freed_blocks_go_in_the_order_that_was_learned(one: Bare) -> None:
    """Cached ones are the last to go, and of a chain the end goes first; touched ones do not go."""
    pool, request = one.cache.block_pool, shadow(one, 70)
    install(one, request, 4)
    one.cache.cache_blocks(request, 64)
    blocks = list(one.cache.get_blocks("lease-1").blocks[0])
    pool.touch(blocks[:1])
    one.cache.free(request)
    order = [block.block_id for block in pool.free_block_queue.iter_blocks_after(None)]
    assert order[0] == blocks[4].block_id
    assert order[-3:] == [block.block_id for block in reversed(blocks[1:4])]
    pool.free_blocks(reversed(blocks[:1]))
    assert pool.get_cached_block(request.block_hashes[0], [0]) == [blocks[0]]
