"""Schedules computed by hand, and what no schedule may break."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.instance.block_keys import ListedKeys
from shoal.instance.model_cache import BrokenLedger, Change
from shoal.instance.model_request import IllegalMove, ModelRequest, State
from shoal.instance.step_model import StepModel
from shoal.instance.step_plan import Plan
from shoal.instance.step_time import StepWork


def model(**changes: int) -> StepModel:
    sizes = {"block_size": 4, "total_blocks": 64, "max_num_batched_tokens": 16, "max_num_seqs": 8, "max_model_len": 128}
    return StepModel(**{**sizes, **changes})


def request(name: str, prompt: int, new: int = 4, **more: object) -> ModelRequest:
    return ModelRequest(name, prompt_tokens=prompt, max_new=new, **more)


def named(name: str, prompt: int, content: str, new: int = 4) -> ModelRequest:
    """`content`: one letter per block of 4 tokens; equal beginnings are equal prefixes."""
    return request(name, prompt, new, keys=ListedKeys([content[: i + 1] for i in range(len(content))]))


def step(m: StepModel) -> tuple[list[str], list[tuple[str, int, int]]]:
    """Decodes, and (request, tokens, context) of prefill chunks."""
    plan = m.schedule()
    seen = [r.request_id for r in plan.decodes], [(c.request.request_id, c.tokens, c.context) for c in plan.prefills]
    m.complete()
    m.check()
    return seen


def run_dry(m: StepModel, limit: int = 10_000) -> list[Plan]:
    plans = []
    while m.has_work():
        plans.append(m.schedule())
        m.complete()
        m.check()
        assert len(plans) < limit
    return plans


# -- budget and order


def test_a_long_prompt_is_cut_into_chunks_of_the_budget() -> None:
    m = model()
    m.add(request("a", 40, new=2))
    assert [step(m) for _ in range(4)] == [
        ([], [("a", 16, 0)]),
        ([], [("a", 16, 16)]),
        ([], [("a", 8, 32)]),
        (["a"], []),
    ]
    assert not m.has_work()


def test_decodes_come_first_then_the_partial_prefill_then_the_next_in_line() -> None:
    m = model()
    m.add(request("a", 3))
    assert step(m) == ([], [("a", 3, 0)])
    m.add(request("b", 20))
    m.add(request("c", 30))
    assert step(m) == (["a"], [("b", 15, 0)])
    assert step(m) == (["a"], [("b", 5, 15), ("c", 10, 0)])
    assert step(m) == (["a", "b"], [("c", 14, 10)])


def test_no_more_requests_run_than_there_are_slots() -> None:
    m = model(max_num_seqs=2)
    for name in "abc":
        m.add(request(name, 2, new=2))
    assert step(m) == ([], [("a", 2, 0), ("b", 2, 0)])
    assert step(m) == (["a", "b"], [])
    assert step(m) == ([], [("c", 2, 0)])


def test_priority_goes_before_arrival_and_arrival_before_order_of_submission() -> None:
    m = model(max_num_batched_tokens=2)
    m.add(request("late", 2, arrival_s=9.0))
    m.add(request("early", 2, arrival_s=1.0))
    m.add(request("urgent", 2, arrival_s=20.0, priority=-1))
    m.add(request("early too", 2, arrival_s=1.0))
    assert [r.request_id for r in m.waiting.requests()] == ["urgent", "early", "early too", "late"]
    assert step(m) == ([], [("urgent", 2, 0)])


def test_work_of_a_mixed_step_counts_chunks_pairs_decodes_and_context() -> None:
    m = model()
    m.add(request("a", 6))
    step(m)
    m.add(request("b", 20))
    step(m)  # a decodes, b computes 15
    assert m.schedule().work() == StepWork(
        prefill_tokens=5, prefill_pairs=5 * 15 + 5 * 5 / 2, decodes=1, context_tokens=7
    )


def test_each_output_token_but_the_last_is_computed_and_the_length_limit_ends_it() -> None:
    m = model(max_model_len=10)
    r = request("a", 6, new=100)
    m.add(r)
    run_dry(m)
    assert (r.state, r.output_tokens, r.computed) == (State.DONE, 4, 9)


def test_delivered_tokens_are_recomputed_with_the_prompt_and_count_as_output() -> None:
    m = model()
    r = request("a", 6, new=5, delivered=3)
    m.add(r)
    assert step(m) == ([], [("a", 9, 0)])
    assert r.output_tokens == 4
    assert step(m) == (["a"], [])
    assert (r.state, r.output_tokens) == (State.DONE, 5)


# -- blocks


def test_a_request_waits_until_its_whole_prompt_has_room() -> None:
    m = model(total_blocks=8, max_num_batched_tokens=8, max_model_len=32)
    m.add(request("a", 18, new=3))  # 5 blocks
    m.add(request("b", 14, new=3))  # 4 blocks, of which the first chunk would fit at once
    assert step(m) == ([], [("a", 8, 0)])
    assert step(m) == ([], [("a", 8, 8)])
    assert step(m) == ([], [("a", 2, 16)])
    assert step(m) == (["a"], [])
    assert step(m) == (["a"], [])
    assert step(m) == ([], [("b", 8, 0)])


def test_the_latest_request_gives_way_when_blocks_run_out_and_is_recomputed_later() -> None:
    m = model(total_blocks=4, max_model_len=16)
    a, b = request("a", 7, new=5), request("b", 8, new=2)
    m.add(a)
    m.add(b)
    assert step(m) == ([], [("a", 7, 0), ("b", 8, 0)])
    plan = (
        m.schedule()
    )  # a's 8th token has room; b's 9th needs a third block: there is none, and b itself is the latest
    assert (plan.decodes, plan.prefills, plan.preempted) == ([a], [], [b])
    m.complete()
    assert (b.state, b.computed, b.output_tokens, b.preemptions) == (State.WAITING, 0, 1, 1)
    assert m.load().free_blocks == 2
    assert step(m) == (["a"], [])  # 9 tokens of b (3 blocks) do not fit beside a
    assert step(m) == (["a"], [])
    assert step(m) == (["a"], [])
    assert a.state is State.DONE
    assert step(m) == ([], [("b", 9, 0)])
    assert (b.state, b.output_tokens) == (State.DONE, 2)
    assert m.load().free_blocks == 4


def test_a_victim_that_was_scheduled_before_its_preemptor_is_withdrawn_from_the_step() -> None:
    m = model(total_blocks=4, max_model_len=16)
    low, high = request("low", 6, priority=1), request("high", 8, priority=0)
    m.add(low)
    m.schedule()
    m.complete()
    m.add(high)
    m.schedule()
    m.complete()
    plan = m.schedule()
    assert (plan.decodes, plan.preempted, plan.left_tokens) == ([high], [low], 15)
    m.complete()
    m.check()
    assert (low.state, low.output_tokens) == (State.WAITING, 2)


def test_nothing_is_admitted_in_a_step_that_preempts() -> None:
    m = model(total_blocks=5, max_model_len=16)
    m.add(request("a", 8))
    m.add(request("b", 8))
    step(m)
    m.add(request("urgent", 1, priority=-1))
    assert step(m) == (["a"], [])  # a takes the fifth block, b gives way and leaves two
    assert step(m) == (["a"], [("urgent", 1, 0)])


def test_a_recomputed_request_hits_what_it_left_in_the_cache() -> None:
    m = model(total_blocks=4, max_model_len=16)
    a, b = named("a", 7, "ab", new=5), named("b", 8, "xy", new=2)
    m.add(a)
    m.add(b)
    step(m)
    step(m)
    assert (b.state, b.queued_tokens) == (State.WAITING, 1)
    while a.state is State.RUNNING:
        step(m)
    assert step(m) == ([], [("b", 5, 4)])  # a's third block evicted y, the tail, and kept x
    assert (b.state, b.cached_tokens) == (State.DONE, 0)


# -- prefix cache


def test_a_finished_request_leaves_its_full_blocks_to_the_next() -> None:
    m = model()
    m.add(named("a", 10, "ab", new=1))
    step(m)
    b = named("b", 14, "abc")
    m.add(b)
    assert b.queued_tokens == 6
    assert step(m) == ([], [("b", 6, 8)])
    assert b.cached_tokens == 8


def test_the_last_token_is_computed_even_when_every_block_is_cached() -> None:
    m = model()
    m.add(named("a", 8, "ab", new=1))
    step(m)
    m.add(named("b", 8, "ab"))
    assert step(m) == ([], [("b", 4, 4)])


def test_two_equal_prompts_share_blocks_within_one_step() -> None:
    m = model(max_num_batched_tokens=32)
    m.add(named("a", 10, "ab"))
    m.add(named("b", 10, "ab"))
    assert step(m) == ([], [("a", 10, 0), ("b", 2, 8)])
    assert m.load().free_blocks == 64 - 4


def test_the_least_recently_used_content_is_evicted_tail_first() -> None:
    m = model(total_blocks=4, max_model_len=16)
    m.add(named("a", 8, "ab", new=1))
    step(m)
    m.add(named("c", 8, "xy", new=1))
    step(m)
    m.blocks.take_changes()
    m.add(named("d", 4, "q", new=1))
    step(m)
    assert m.blocks.take_changes() == [(Change.REMOVED, ["ab"]), (Change.STORED, ["q"])]
    e = named("e", 5, "ab", new=1)
    m.add(e)
    assert step(m) == (["e"], [])  # one token after a context: a decode to the kernels
    assert e.cached_tokens == 4


def test_changes_tell_what_is_cached() -> None:
    m = model(total_blocks=4, max_model_len=16)
    cached: set[object] = set()
    for content in ("ab", "abc", "xyz", "a", "xq"):
        m.add(named(content, 4 * len(content), content, new=1))
        run_dry(m)
        for change, keys in m.blocks.take_changes():
            cached = cached | set(keys) if change is Change.STORED else cached - set(keys)
        assert len(cached) == m.blocks._cache.cached
    assert m.blocks.reset()
    assert m.blocks.take_changes() == [(Change.CLEARED, [])]


def test_the_cache_is_not_cleared_while_a_request_holds_blocks() -> None:
    m = model()
    r = named("a", 8, "ab")
    m.add(r)
    step(m)
    assert not m.blocks.reset()
    m.remove(r)
    assert m.blocks.reset()


def test_installed_blocks_are_hit_and_do_not_exceed_the_pool() -> None:
    m = model(total_blocks=4, max_model_len=16)
    assert m.guests.install(["a", "ab", "abc"]) == 3
    assert m.guests.install(["a", "ab", "abx"]) == 1
    m.check()
    assert m.load().free_blocks == 4
    m.add(named("r", 12, "abx", new=1))
    assert step(m) == ([], [("r", 4, 8)])


# -- removal, parking, taking over


def test_a_request_removed_while_its_step_runs_gets_no_token() -> None:
    m = model()
    a, b = request("a", 4), request("b", 4)
    m.add(a)
    m.add(b)
    m.schedule()
    m.remove(a)
    assert m.complete().sampled == [b]
    m.check()
    assert m.load().free_blocks == 63


def test_a_parked_request_keeps_blocks_and_slot_and_goes_on_where_it_stood() -> None:
    m = model(max_num_seqs=1)
    r = request("a", 5)
    m.add(r)
    step(m)
    m.park(r)
    m.add(request("b", 4))
    assert step(m) == ([], [])
    assert m.load().free_blocks == 62
    m.unpark(r)
    assert step(m) == (["a"], [])


def take_over(m: StepModel, r: ModelRequest, computed: int) -> bool:
    """It comes with the KV of `computed` tokens, and is parked; False: there was no room."""
    if m.lease(r, computed) is None:
        return False
    if not m.hold(r, computed):
        m.remove(r)
        return False
    return True


def test_a_request_taken_over_computes_one_token_and_shares_what_is_cached() -> None:
    m = model()
    m.guests.install(["a", "ab"])
    r = named("a", 10, "ab", new=5)
    assert take_over(m, r, 9)
    m.check()
    assert (m.load().free_blocks, m.load().running) == (61, 0)
    m.unpark(r)
    assert step(m) == (["a"], [])


def test_a_request_is_not_taken_over_where_it_has_no_room() -> None:
    m = model(total_blocks=4, max_model_len=16)
    m.add(request("a", 8))
    step(m)
    r = request("b", 10)
    assert not take_over(m, r, 9)
    m.check()
    assert r.state is State.NEW


def test_forbidden_moves_raise() -> None:
    m = model()
    r = request("a", 4)
    gone = request("gone", 4)
    m.add(gone)
    m.remove(gone)
    with pytest.raises(IllegalMove):
        m.park(gone)
    m.add(r)
    m.schedule()
    with pytest.raises(BrokenLedger):
        m.schedule()
    with pytest.raises(BrokenLedger):
        m.park(r)


def test_memory_of_aborted_waiting_requests_is_given_back() -> None:
    m = model(max_num_seqs=1)
    m.add(request("a", 4))
    step(m)
    for i in range(1000):
        r = request(str(i), 4)
        m.add(r)
        m.remove(r)
    assert len(m.waiting._heap) < 100
    assert (len(m.waiting), m.waiting.queued_tokens) == (0, 0)


def test_load_counts_what_waits_what_is_prefilling_and_what_is_computed() -> None:
    m = model()
    m.add(request("a", 3))
    step(m)
    m.add(request("b", 40))
    step(m)
    m.add(request("c", 7))
    load = m.load()
    assert (load.running, load.waiting, load.queued_prefill_tokens) == (2, 1, 7)
    assert (load.uncached_prefill_tokens, load.context_tokens) == (25, 4 + 15)


# -- promises over all workloads

REQUESTS = st.lists(
    st.tuples(
        st.integers(1, 40),  # prompt tokens
        st.integers(1, 12),  # new tokens
        st.integers(0, 2),  # priority
        st.text("ab", max_size=10),  # content: long common prefixes
        st.integers(0, 6),  # step of arrival
        st.one_of(st.none(), st.integers(0, 20)),  # step of removal
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(REQUESTS, st.integers(13, 40), st.integers(1, 24), st.integers(1, 6))
def test_blocks_are_conserved_and_each_request_gets_exactly_its_tokens(
    asked: list[tuple[int, int, int, str, int, int | None]], total_blocks: int, budget: int, slots: int
) -> None:
    m = model(total_blocks=total_blocks, max_num_batched_tokens=budget, max_num_seqs=slots, max_model_len=52)
    requests = []
    for number, (prompt, new, priority, content, _at, _out) in enumerate(asked):
        keys = ListedKeys([content[: i + 1] for i in range(min(len(content), prompt // 4))])
        requests.append(request(str(number), prompt, new, priority=priority, arrival_s=number, keys=keys))
    now = 0
    while now <= 20 or m.has_work():
        for r, (_p, _n, _prio, _content, at, out) in zip(requests, asked, strict=True):
            if at == now:
                m.add(r)
            elif out == now and r.state is not State.NEW:
                m.remove(r)
        plan = m.schedule()
        work = plan.work()
        assert work.prefill_tokens + work.decodes == budget - plan.left_tokens <= budget
        assert len(m.running) <= slots
        assert plan or plan.preempted or not m.running
        m.complete()
        m.check()
        now += 1
        assert now < 3000
    assert m.load().free_blocks == total_blocks
    for r, (_p, new, _prio, _content, at, out) in zip(requests, asked, strict=True):
        assert r.output_tokens == new or (out is not None and out > at)


@settings(max_examples=50, deadline=None)
@given(REQUESTS, st.data())
def test_parking_and_taking_over_anywhere_conserves_blocks_on_both_sides(asked: list, data: st.DataObject) -> None:
    models = [model(total_blocks=40, max_model_len=52), model(total_blocks=40, max_model_len=52)]
    for number, (prompt, new, priority, _content, _at, _out) in enumerate(asked):
        models[0].add(request(str(number), prompt, new, priority=priority))
    outputs = 0
    while any(m.has_work() for m in models):
        source, target = data.draw(st.permutations(models))
        if source.running and data.draw(st.booleans()):
            r = data.draw(st.sampled_from(source.running))
            source.park(r)
            moved = request(r.request_id, r.prompt_tokens, r.limit_tokens - r.prompt_tokens, delivered=r.output_tokens)
            if r.computed and take_over(target, moved, r.computed):
                source.remove(r)
                target.unpark(moved)
            else:
                source.unpark(r)
        for m in models:
            m.schedule()
            outputs += len(m.complete().sampled)
            m.check()
    assert outputs == sum(new for _p, new, *_rest in asked)
    assert [m.load().free_blocks for m in models] == [40, 40]


# -- many steps at once


def test_nothing_is_quiet_while_a_prompt_is_computed_or_somebody_could_be_admitted() -> None:
    m = model(max_num_seqs=2)
    assert m.quiet_steps() == 0
    m.add(request("a", 20, new=9))
    assert m.quiet_steps() == 0
    assert step(m) == ([], [("a", 16, 0)])
    assert m.quiet_steps() == 0
    step(m)
    assert m.quiet_steps() == 8  # one of nine tokens is made
    m.add(request("b", 2, new=3))
    assert m.quiet_steps() == 0
    step(m)
    m.add(request("c", 2))  # no slot is free for it
    assert m.quiet_steps() == 2


def test_a_first_token_is_never_quiet() -> None:
    m = model()
    m.add(request("a", 17))
    step(m)  # 16 of 17
    assert m.quiet_steps() == 0
    assert step(m) == (["a"], [])


def test_quiet_steps_end_before_blocks_run_out() -> None:
    m = model(total_blocks=4, max_model_len=16)
    m.add(request("a", 4, new=12))
    m.add(request("b", 4, new=12))
    step(m)  # 1 block each; the next step takes one each, the fifth after it none is left for
    assert m.quiet_steps() == 4
    assert m.skip(4) == []
    assert m.quiet_steps() == 0
    assert [r.request_id for r in m.schedule().preempted] == ["b"]


def test_skipped_steps_take_and_name_blocks_as_single_ones_do() -> None:
    def run(*, skip: bool) -> StepModel:
        m = model(total_blocks=8, max_model_len=32)
        m.add(named("old", 16, "wxyz", new=1))
        step(m)
        m.add(named("a", 6, "abcd", new=10))
        m.add(named("b", 7, "abef", new=9))
        step(m)
        if skip:
            assert m.quiet_steps() == 8
            assert [r.request_id for r in m.skip(8)] == ["b"]
        else:
            for _ in range(8):
                step(m)
        return m

    fast, slow = run(skip=True), run(skip=False)
    fast.check()
    assert fast.blocks.take_changes() == slow.blocks.take_changes()
    assert fast.load() == slow.load()
