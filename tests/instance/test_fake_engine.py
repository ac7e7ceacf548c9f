"""The fake engine speaks the seam's bytes, and any of them continues any request exactly."""

from typing import Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.instance.block_keys import block_hashes
from shoal.instance.fake_engine import FakeEngine
from shoal.instance.fake_tokens import reply
from shoal.instance.seam import BlockChange, Refused, Submission
from shoal.proto import codec
from shoal.proto.codec import FINISH_LENGTH, FINISH_STOP, WireOutputs, WireRequest
from shoal.proto.config import EngineConfig, FakeEngineConfig
from shoal.proto.errors import BadMessage, StartFailed

VOCABULARY = 256


class Died(Exception):
    pass


def die() -> NoReturn:
    raise Died


def engine(engine_config: dict[str, Any] | None = None, **fake: Any) -> FakeEngine:
    sizes = {"kind": "fake", "block_size": 4, "max_num_batched_tokens": 16, "max_num_seqs": 4, "max_model_len": 64}
    return FakeEngine(
        EngineConfig(**{**sizes, **(engine_config or {})}),
        FakeEngineConfig(**{"total_blocks": 64, "vocabulary": VOCABULARY, **fake}),
        model="m",
        vllm_version="0.32.0",
        sleep_s=fake_sleep,
        die=die,
    )


def fake_sleep(_seconds: float) -> None:
    pass


def wire(prompt: list[int], **changes: Any) -> bytes:
    request = WireRequest("r", prompt, None, {}, None, 0.0, None, None)
    for name, value in changes.items():
        setattr(request, name, value)
    return codec.encode(request)


def submission(prompt: list[int], *, delivered: tuple[int, ...] = (), epoch: int = 1, **sampling: Any) -> Submission:
    return Submission("r", epoch, wire(prompt, sampling_params=sampling), delivered)


def submit(e: FakeEngine, s: Submission) -> None:
    prepared = e.prepare(s)
    assert e.ready(prepared)
    e.add(prepared)


def collect(e: FakeEngine, steps: int = 10_000) -> tuple[list[int], list[Any]]:
    """New tokens of all outputs, and the finished outputs, through the wire's bytes."""
    tokens, finished = [], []
    while steps and e.has_work():
        steps -= 1
        for output in codec.decode(WireOutputs, e.encode(e.step().outputs)).outputs:
            tokens += output.new_token_ids
            if output.finish_reason is not None:
                finished.append(output)
        e.check()
    return tokens, finished


def all_free(e: FakeEngine) -> bool:
    load = e.load()
    return (load.free_blocks, load.running, load.waiting) == (load.total_blocks, 0, 0) and not e.has_work()


# -- what it says


def test_a_request_yields_sixteen_tokens_of_its_prompt_unless_it_asks_otherwise() -> None:
    e = engine()
    submit(e, submission([1, 2, 3]))
    tokens, finished = collect(e)
    assert tokens == reply([1, 2, 3], 16, VOCABULARY)
    assert [(f.request_id, f.finish_reason) for f in finished] == [("r@1", FINISH_LENGTH)]
    assert all_free(e)


def test_the_reply_depends_on_the_prompt_alone() -> None:
    e = engine()
    for epoch, seed in ((1, None), (2, 5), (3, 6)):
        submit(e, submission([1, 2, 3], epoch=epoch, max_tokens=3, seed=seed, temperature=0.7))
    tokens, _ = collect(e)
    assert sorted(tokens) == sorted(reply([1, 2, 3], 3, VOCABULARY) * 3)
    assert reply([1, 2, 4], 8, VOCABULARY) != reply([1, 2, 3], 8, VOCABULARY)


def test_without_a_limit_it_goes_on_to_the_longest_context() -> None:
    e = engine()
    submit(e, submission([1, 2, 3], max_tokens=None))
    tokens, finished = collect(e)
    assert len(tokens) == 61
    assert finished[0].finish_reason == FINISH_LENGTH
    assert all_free(e)


def test_a_stop_token_ends_it_with_its_reason_and_eos_without_one() -> None:
    said = reply([7, 7], 16, VOCABULARY)
    e = engine()
    submit(e, submission([7, 7], stop_token_ids=[said[2]]))
    tokens, finished = collect(e)
    assert (tokens, finished[0].finish_reason, finished[0].stop_reason) == (said[:3], FINISH_STOP, said[2])
    submit(e, submission([7, 7], _eos_token_id=said[4]))
    tokens, finished = collect(e)
    assert (tokens, finished[0].finish_reason, finished[0].stop_reason) == (said[:5], FINISH_STOP, None)
    assert all_free(e)


@pytest.mark.parametrize("sampling", [{"ignore_eos": True}, {"min_tokens": 6}])
def test_an_eos_that_may_not_end_it_does_not(sampling: dict[str, Any]) -> None:
    said = reply([7, 7], 16, VOCABULARY)
    assert said.count(said[4]) == 1
    e = engine()
    submit(e, submission([7, 7], _eos_token_id=said[4], **sampling))
    assert collect(e)[0] == said


# -- continuing


@settings(max_examples=60, deadline=None)
@given(
    prompt=st.lists(st.integers(0, 255), min_size=1, max_size=40),
    new=st.integers(1, 20),
    cut=st.integers(0, 20),
    stop=st.one_of(st.none(), st.integers(0, 255)),
    neighbours=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=30), max_size=4),
)
def test_a_stream_cut_anywhere_goes_on_elsewhere_token_for_token(
    prompt: list[int], new: int, cut: int, stop: int | None, neighbours: list[list[int]]
) -> None:
    sampling: dict[str, Any] = {"max_tokens": new, **({} if stop is None else {"stop_token_ids": [stop]})}
    undisturbed = engine()
    submit(undisturbed, submission(prompt, **sampling))
    expected, ended = collect(undisturbed)
    second = engine({"max_num_batched_tokens": 7}, total_blocks=20)
    for number, other in enumerate(neighbours):
        submit(second, Submission(f"n{number}", 1, wire(other, sampling_params={"max_tokens": 9})))
    delivered = tuple(expected[:cut])
    submit(second, submission(prompt, epoch=2, delivered=delivered, **sampling))
    tokens, finish = list(delivered), []
    while second.has_work():
        for output in second.step().outputs:
            if output.request_id == "r@2":
                tokens += output.new_token_ids
                finish.append((output.finish_reason, output.stop_reason))
        second.check()
    assert tokens == expected
    assert finish[-1] == (ended[0].finish_reason, ended[0].stop_reason)
    assert all_free(second)


def test_a_request_complete_on_arrival_ends_in_the_next_step_without_a_token() -> None:
    e = engine()
    submit(e, submission([1], delivered=tuple(reply([1], 2, VOCABULARY)), max_tokens=2))
    assert e.has_work()
    tokens, finished = collect(e)
    assert (tokens, [f.finish_reason for f in finished]) == ([], [FINISH_LENGTH])
    assert all_free(e)


# -- requests come and go


def test_an_aborted_request_is_silent_and_leaves_nothing_behind() -> None:
    e = engine({"max_num_seqs": 1})
    for name in "abc":
        submit(e, Submission(name, 1, wire([1, 2, 3, 4, 5])))
    e.step()
    e.abort(["a@1", "b@1", "unknown"])
    assert {o.request_id for o in e.step().outputs} == {"c@1"}
    e.abort(["c@1"])
    assert all_free(e)


def test_an_abort_while_a_step_runs_is_in_time_for_that_step() -> None:
    e = engine()
    submit(e, submission([1, 2, 3]))
    e._sleep_s = lambda _seconds: e.abort(["r@1"])
    assert e.step().outputs == []
    e.check()
    assert all_free(e)


def test_a_step_with_nothing_to_run_says_so() -> None:
    assert not engine().step().executed


# -- refusals


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt_token_ids": None},
        {"prompt_token_ids": []},
        {"prompt_token_ids": [-1]},
        {"prompt_token_ids": [1 << 63]},
        {"prompt_token_ids": [1] * 64},
        {"pooling_params": {}},
        {"sampling_params": {"max_tokens": 0}},
    ],
)
def test_what_no_engine_can_serve_is_refused_as_the_clients_fault(changes: dict[str, Any]) -> None:
    with pytest.raises(Refused) as refused:
        engine().prepare(Submission("r", 1, wire([1], **changes)))
    assert refused.value.client_fault


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x93\x01\x02\x03", wire([1], sampling_params={"max_tokens": "many"})])
def test_bytes_that_are_no_request_are_a_bad_message(data: bytes) -> None:
    with pytest.raises(BadMessage):
        engine().prepare(Submission("r", 1, data))


def test_a_context_that_cannot_fit_into_the_blocks_is_refused_at_the_start() -> None:
    with pytest.raises(StartFailed, match="max_model_len"):
        engine({"max_model_len": 4096})


# -- blocks and time


def test_stored_blocks_are_reported_under_the_names_a_router_computes() -> None:
    e = engine()
    prompt = list(range(9))
    submit(e, Submission("r", 1, wire(prompt, cache_salt="tenant", sampling_params={"max_tokens": 4})))
    collect(e)
    text = prompt + reply(prompt, 4, VOCABULARY)
    # The last token is never computed, so the block that it fills is none.
    assert e.take_block_changes() == [BlockChange("stored", tuple(block_hashes(text[:12], 4, salt="tenant")))]
    assert e.take_block_changes() == []
    assert e.call("reset_prefix_cache", {}) is True
    assert e.take_block_changes() == [BlockChange("cleared")]


def test_tenants_with_different_salts_share_no_block() -> None:
    e = engine()
    hits = []
    for number, salt in enumerate(("a", "b", "a")):
        submit(e, Submission(str(number), 1, wire(list(range(12)), cache_salt=salt, sampling_params={"max_tokens": 1})))
        hits.append(12 - e.load().queued_prefill_tokens)
        collect(e)
    assert hits == [0, 0, 8]


def test_a_step_sleeps_the_modelled_time() -> None:
    slept: list[float] = []
    e = engine(a_ms=1.0, b_ms=0.5, c_ms=1e6, d_ms=10.0, e_ms=1000.0)
    e._sleep_s = slept.append
    submit(e, submission([1, 2, 3, 4], max_tokens=2))
    collect(e)
    assert slept == pytest.approx([(1 + 0.5 * 4 + 8) / 1000, (1 + 10 + 4) / 1000])


def test_the_poison_token_ends_the_process_when_its_prompt_is_scheduled_and_not_before() -> None:
    e = engine({"max_num_seqs": 1}, poison_token=99)
    submit(e, Submission("good", 1, wire([1], sampling_params={"max_tokens": 2})))
    submit(e, Submission("bad", 1, wire([1, 99])))
    e.step()
    e.step()
    with pytest.raises(Died):
        e.step()
