"""The vLLM engine behind the seam, on the tiny model: requests go on exactly where another engine left them, nothing
that a peer sends ends it, and its books balance.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from shoal.instance.block_log import BlockLog
from shoal.instance.seam import BlockChange, Refused
from shoal.proto import codec
from shoal.proto.codec import FINISH_ERROR, FINISH_LENGTH, FINISH_STOP, WireOutput, WireOutputs
from shoal.proto.errors import BadMessage, StartFailed
from tests.instance.sampling_kinds import SCHEMA

if TYPE_CHECKING:
    from tests.instance.vllm_drive import Drive

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(900),  # the nightly count of mutations
    pytest.mark.filterwarnings("ignore:max_rollback_tokens is deprecated:DeprecationWarning"),
]

NEW_TOKENS = 40
BUDGET = 256  # tokens of one step: longer prompts are chunked
BLOCK = 32
SAMPLING: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "seeded with penalties": {
        "seed": 7,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.3,
        "repetition_penalty": 1.2,
    },
    "cut distribution": {"seed": 9, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "min_tokens": 30},
    "biased": {"seed": 11, "logit_bias": {5: 2.0, 6: -1.0}, "logprobs": 3, "temperature": 0.7},
    "json": {"seed": 3},
}


@pytest.fixture(scope="module")
def drive() -> Iterator[Drive]:
    """One engine for all, made when the first of these tests runs: to import vLLM takes tens of seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        drive = importlib.import_module("tests.instance.vllm_drive").Drive()
        yield drive
        drive.engine.shutdown()


@pytest.fixture(autouse=True)
def nothing_is_left_behind(drive: Drive) -> Iterator[None]:
    yield
    assert not drive.engine.has_work()
    assert drive.all_free()
    assert runner_rows(drive) == {}


def runner_rows(drive: Drive) -> dict[str, Any]:
    return drive.engine.core.model_executor.driver_worker.worker.model_runner.requests


def prompt(tokens: int, seed: int = 1) -> list[int]:
    rng = random.Random(seed * 100_000 + tokens)
    return [rng.randrange(256) for _ in range(tokens)]


def sampling(drive: Drive, kind: str) -> dict[str, Any]:
    common = {"max_tokens": NEW_TOKENS, "ignore_eos": kind != "json", **SAMPLING[kind]}
    if kind == "json":
        common["structured_outputs"] = drive.json_schema(SCHEMA)
    return common


def plain(drive: Drive) -> bytes:
    return drive.wire(prompt(50), max_tokens=4, temperature=0, ignore_eos=True)


# -- continuing


@pytest.mark.parametrize("tokens", [100, 600, 1500])
@pytest.mark.parametrize("kind", SAMPLING)
def test_a_continued_request_says_what_the_undisturbed_one_says(drive: Drive, kind: str, tokens: int) -> None:
    wire = drive.wire(prompt(tokens), **sampling(drive, kind))
    want = drive.run(wire)
    assert len(want.tokens) > 5
    cuts = sorted({1, 2, len(want.tokens) // 2, len(want.tokens) - 1})
    # Another salt finds nothing in the cache, so that prompt and output are computed anew, in chunks.
    unsalted = [drive.start(wire, want.tokens[:cut]) for cut in cuts]
    salted = [
        drive.start(
            drive.wire(prompt(tokens), changes={"cache_salt": f"{cut}"}, **sampling(drive, kind)), want.tokens[:cut]
        )
        for cut in cuts[::2]
    ]
    for cut, got in zip([*cuts, *cuts[::2]], drive.finish(*unsalted, *salted), strict=True):
        assert got.tokens == want.tokens, f"cut at {cut}"
        assert got.end() == want.end()
        assert got.logprob_ids == want.logprob_ids[cut:]


def test_a_continued_request_stops_where_the_undisturbed_one_stops(drive: Drive) -> None:
    usual = {"seed": 5, "max_tokens": NEW_TOKENS, "ignore_eos": True}
    said = drive.run(drive.wire(prompt(70), **usual)).tokens
    stop = next(token for n, token in enumerate(said) if n > 15 and token not in said[:n])
    for early, minimum in ((said.index(stop), 0), (None, said.index(stop) + 5)):
        wire = drive.wire(prompt(70), stop_token_ids=[stop], min_tokens=minimum, **usual)
        want = drive.run(wire)
        if early is not None:
            assert (want.tokens[-1], len(want.tokens), want.end()) == (stop, early + 1, (FINISH_STOP, stop))
        else:
            assert len(want.tokens) > minimum
        assert drive.run(wire, want.tokens[:7]) == want


def test_seeds_are_kept_apart_whatever_shares_the_batch(drive: Drive) -> None:
    """Seeded prompts that are chunked end the stock engine on CPUs; here each says what it says alone."""
    wires = [
        drive.wire(prompt(n, seed), seed=seed, max_tokens=20, ignore_eos=True, presence_penalty=0.2)
        for seed, n in enumerate((40, 700, 90, 515, 257, 256))
    ]
    alone = [drive.run(wire).tokens for wire in wires]
    assert drive.engine.call("reset_prefix_cache", {}) is True
    drive.engine.take_block_changes()
    together = [drive.start(wire) for wire in wires]
    assert [heard.tokens for heard in drive.finish(*together)] == alone


@pytest.mark.parametrize("kind", ["seeded with penalties", "json"])
def test_a_preempted_request_goes_on_as_if_nothing_had_been(drive: Drive, kind: str) -> None:
    wires = [drive.wire(prompt(n, 3), **sampling(drive, kind)) for n in (60, 400)]
    want = [drive.run(wire) for wire in wires]
    for tokens in (0, 6):
        started = [drive.start(wire) for wire in wires]
        drive.step()
        drive.step_until(started[0], tokens)
        # Takes every running request out of the batch and its blocks away; with 0 tokens, amidst a prefill.
        drive.engine.core.reset_prefix_cache(reset_running_requests=True)
        assert drive.engine.load().running == 0
        assert drive.finish(*started) == want


# -- what is refused


BAD: dict[str, tuple[Any, dict[str, Any]]] = {
    "no prompt": ([], {}),
    "token beyond the vocabulary": ([1, 259], {}),
    "negative token": ([-1], {}),
    "prompt too long": ([1] * 4096, {}),
    "stop token beyond the vocabulary": ([1], {"params._all_stop_token_ids": {10**6}, "params.min_tokens": 2}),
    "bias beyond the vocabulary": ([1], {"params.logit_bias": {10**6: 1.0}}),
    "allowed token beyond the vocabulary": ([1], {"params.allowed_token_ids": [10**6]}),
    "no allowed token": ([1], {"params.allowed_token_ids": []}),
    "empty bad word": ([1], {"params._bad_words_token_ids": [[]]}),
    "too many logprobs": ([1], {"params.logprobs": 10**6}),
    "too many prompt logprobs": ([1], {"params.prompt_logprobs": 10**6}),
    "logprobs of a token beyond the vocabulary": ([1], {"params.logprob_token_ids": [10**6]}),
    "embeddings": ([1, 2], {"prompt_is_token_ids": [True, False]}),
    "streamed input": ([1], {"resumable": True}),
    "abort on arrival": ([1], {"abort_immediately": True}),
    "no limit": ([1], {"params.max_tokens": None}),
}


@pytest.mark.parametrize("delivered", [(), (7, 8)])
@pytest.mark.parametrize("name", BAD)
def test_what_would_end_the_engine_is_refused(drive: Drive, name: str, delivered: tuple[int, ...]) -> None:
    tokens, changes = BAD[name]
    with pytest.raises(Refused):
        drive.start(drive.wire(tokens, max_tokens=9, temperature=0, changes=changes), delivered)
    assert not drive.engine.has_work()


@pytest.mark.parametrize("delivered", [(1,) * 9, (10**6,), (259,)])
def test_impossible_output_so_far_is_refused(drive: Drive, delivered: tuple[int, ...]) -> None:
    with pytest.raises(Refused):
        drive.start(drive.wire([1], max_tokens=9, temperature=0), delivered)
    with pytest.raises(Refused):
        drive.start(drive.wire([1] * 4095, max_tokens=9, temperature=0), (1,))


def test_an_adapter_that_is_not_loaded_is_refused_not_ignored(drive: Drive) -> None:
    with pytest.raises(Refused, match="adapter x is not loaded"):
        drive.start(drive.wire([1], max_tokens=2, changes={"lora_request": drive.lora("x", 1)}))


def test_the_longest_prompt_is_served(drive: Drive) -> None:
    heard = drive.run(drive.wire(prompt(4095), max_tokens=9, seed=1))
    assert (len(heard.tokens), heard.finish) == (1, FINISH_LENGTH)


@pytest.mark.parametrize("delivered", [(), (7, 8)])
@pytest.mark.parametrize("schema", ["{not json", "7", '{"type": "no such type"}'])
def test_an_impossible_grammar_ends_its_request_and_nothing_else(
    drive: Drive, schema: str, delivered: tuple[int, ...]
) -> None:
    other = drive.start(plain(drive))
    wire = drive.wire([1, 2], max_tokens=9, structured_outputs=drive.json_schema(schema))
    try:
        impossible = drive.start(wire, delivered)
    except (Refused, RuntimeError):
        impossible = None
    drive.finish()
    assert len(drive.heard[other].tokens) == 4
    if impossible is not None:
        assert drive.heard[impossible] == type(drive.heard[other])(list(delivered), FINISH_ERROR)


def test_output_that_its_own_grammar_refuses_fails_that_request_alone(drive: Drive) -> None:
    other = drive.start(plain(drive))
    with pytest.raises(RuntimeError, match="grammar"):
        drive.start(drive.wire([1], max_tokens=9, structured_outputs=drive.json_schema(SCHEMA)), (0, 0))
    assert len(drive.finish(other)[0].tokens) == 4


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x00", b"\x90", b"garbage", b"\xdc\xff\xff", b"\x91\xc4"])
def test_garbage_is_a_bad_message(drive: Drive, data: bytes) -> None:
    with pytest.raises(BadMessage):
        drive.prepare(data)


def try_out(drive: Drive, wire: bytes, delivered: tuple[int, ...]) -> None:
    """Whatever it is, it is refused or it runs; it never raises out of a step."""
    try:
        prepared = drive.prepare(wire, delivered)
    except (Refused, BadMessage):
        return
    drive.heard[prepared.engine_id] = type(drive.heard[next(iter(drive.heard))])(list(delivered))
    try:
        if drive.engine.ready(prepared):
            drive.engine.add(prepared)
    except RuntimeError:  # its grammar refuses what was delivered
        return
    for _ in range(3):
        if drive.engine.has_work():
            drive.step()
    drive.engine.abort([prepared.engine_id])
    while drive.engine.has_work():
        drive.step()


def mutate(data: bytes, changes: list[tuple[str, int, int]]) -> bytes:
    mutated = bytearray(data)
    for kind, place, value in changes:
        at = place % (len(mutated) + 1)
        match kind:
            case "set" if at < len(mutated):
                mutated[at] = value
            case "flip" if at < len(mutated):
                mutated[at] ^= 1 << (value % 8)
            case "insert":
                mutated.insert(at, value)
            case "delete":
                del mutated[at : at + 1 + value % 4]
            case "cut":
                del mutated[at:]
    return bytes(mutated)


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["set", "flip", "flip", "insert", "delete", "cut"]), st.integers(0, 400), st.integers(0, 255)
    ),
    min_size=1,
    max_size=4,
)
QUICK = settings(
    phases=[Phase.explicit, Phase.generate],  # an engine that died cannot help to find a smaller example
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@QUICK
@given(changes=CHANGES, rich=st.booleans(), delivered=st.sampled_from([(), (3,), (3, 4, 5)]))
def test_no_mutation_of_a_requests_bytes_ends_the_engine(
    drive: Drive, changes: list[tuple[str, int, int]], rich: bool, delivered: tuple[int, ...]
) -> None:
    more = {"logit_bias": {3: 1.0}, "logprobs": 2, "stop_token_ids": [9], "min_tokens": 2, "top_k": 5, "min_p": 0.1}
    wire = drive.wire([1, 2, 3, 4, 5], max_tokens=9, seed=1, **(more if rich else {}))
    try_out(drive, mutate(wire, changes), delivered)


NUMBER_FIELDS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "max_tokens",
    "min_tokens",
    "logprobs",
    "prompt_logprobs",
    "thinking_token_budget",
    "_eos_token_id",
    "n",
)
NUMBERS = st.one_of(st.integers(-(2**63), 2**64 - 1), st.integers(-3, 300), st.floats(), st.none(), st.booleans())
IDS = st.lists(st.one_of(st.integers(-2, 300), st.sampled_from([2**31, 2**63, -(2**31)])), max_size=3)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    **{f"params.{name}": NUMBERS for name in NUMBER_FIELDS},
    **{f"params.{name}": IDS for name in ("stop_token_ids", "allowed_token_ids", "logprob_token_ids")},
    "params._all_stop_token_ids": IDS.map(set),
    "params._bad_words_token_ids": st.lists(IDS, max_size=3),
    "params.logit_bias": st.dictionaries(st.integers(-2, 300), st.floats(), max_size=3),
    "params.ignore_eos": st.booleans(),
    "params.skip_reading_prefix_cache": st.one_of(st.none(), st.booleans()),
    "params.extra_args": st.dictionaries(
        st.sampled_from(["kv_transfer_params", "kv_cache_report_mode", "x"]), st.one_of(NUMBERS, st.text()), max_size=2
    ),
    "prompt_token_ids": IDS,
    "priority": st.integers(-(2**63), 2**64 - 1),
    "arrival_time": st.floats(),
    "client_index": st.integers(0, 5),
    "data_parallel_rank": st.integers(0, 5),
    "cache_salt": st.text(max_size=3),
    "reasoning_ended": st.booleans(),
    "resumable": st.booleans(),
}


@QUICK
@given(
    changes=st.lists(st.sampled_from(sorted(FIELDS)), min_size=1, max_size=4, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: FIELDS[name] for name in names})
    ),
    delivered=st.sampled_from([(), (3, 4, 5)]),
)
def test_no_value_of_a_requests_fields_ends_the_engine(
    drive: Drive, changes: dict[str, Any], delivered: tuple[int, ...]
) -> None:
    try_out(drive, drive.wire([1, 2, 3, 4, 5], max_tokens=9, seed=1, changes=changes), delivered)


def test_after_all_this_the_engine_still_says_the_same(drive: Drive) -> None:
    wire = drive.wire(prompt(33), max_tokens=8, seed=2, logprobs=1)
    assert drive.run(wire) == drive.run(wire)


# -- aborting


@pytest.mark.parametrize("continued", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 2, 8])
def test_an_abort_gives_all_blocks_back_and_no_word_more(drive: Drive, steps: int, continued: bool) -> None:
    wire = drive.wire(prompt(600, seed=steps), max_tokens=50, seed=4, changes={"cache_salt": f"{steps} {continued}"})
    aborted, goes_on = drive.start(wire, (5, 6) if continued else ()), drive.start(plain(drive))
    for _ in range(steps):
        drive.step()
    said = len(drive.heard[aborted].tokens)
    drive.engine.abort([aborted, "unknown@1", aborted])
    assert len(drive.finish(goes_on)[0].tokens) == 4
    assert (len(drive.heard[aborted].tokens), drive.heard[aborted].finish) == (said, None)


def test_a_request_that_waits_for_its_grammar_can_be_aborted(drive: Drive) -> None:
    aborted = drive.start(drive.wire([1, 2], max_tokens=50, structured_outputs=drive.json_schema('{"type": "null"}')))
    drive.engine.abort([aborted])
    drive.finish()
    assert drive.heard[aborted].tokens == []


# -- books


def test_the_load_says_what_is_queued_what_runs_and_what_is_cached(drive: Drive) -> None:
    engine, tokens = drive.engine, 1500
    total = engine.info.total_blocks
    wire = drive.wire(prompt(tokens, seed=8), max_tokens=9, temperature=0, ignore_eos=True)
    first = drive.start(wire)
    load = engine.load()
    assert (load.running, load.waiting, load.queued_prefill_tokens) == (0, 1, tokens)
    assert (load.free_blocks, load.total_blocks) == (total, total)
    drive.step()
    load = engine.load()
    assert (load.running, load.waiting, load.queued_prefill_tokens) == (1, 0, 0)
    assert (load.context_tokens, load.uncached_prefill_tokens) == (BUDGET, tokens - BUDGET)
    assert load.free_blocks == total - BUDGET // BLOCK
    drive.step_until(first, 3)
    load = engine.load()
    assert (load.context_tokens, load.uncached_prefill_tokens) == (tokens + 2, 0)
    assert load.free_blocks == total - -(-(tokens + 2) // BLOCK)
    second = drive.start(wire)
    assert engine.load().queued_prefill_tokens == tokens % BLOCK
    drive.finish(first, second)


def test_every_cached_block_is_announced_by_its_hash_and_every_lost_one_too(drive: Drive) -> None:
    engine = drive.engine
    engine.call("reset_prefix_cache", {})
    assert BlockChange("cleared") in engine.take_block_changes()
    log = BlockLog()
    seen: list[BlockChange] = []

    def keep_book() -> None:
        changes = engine.take_block_changes()
        seen.extend(changes)
        log.record(changes)
        in_pool = {key[:32] for key in engine.pool.cached_block_hash_to_block._cache}
        assert set(log.cached) == in_pool

    started = drive.prepare(drive.wire(prompt(100, seed=5), max_tokens=3, temperature=0, ignore_eos=True))
    names = [bytes(name) for name in started.native.block_hashes]
    assert len(names) == 3 and all(len(name) == 32 for name in names)
    drive.run(drive.wire(prompt(100, seed=5), max_tokens=3, temperature=0, ignore_eos=True))
    keep_book()
    assert [name for change in seen for name in change.hashes] == names
    before = len(seen)
    drive.run(drive.wire(prompt(100, seed=5), max_tokens=3, temperature=0, ignore_eos=True))
    keep_book()
    assert len(seen) == before  # found, not made again
    for wave in range(3):  # more than the cache holds
        for seed in range(12):
            drive.start(drive.wire(prompt(480, seed=100 * wave + seed), max_tokens=1, temperature=0))
        drive.finish()
        keep_book()
    assert any(change.kind == "removed" for change in seen)
    assert len(log.cached) <= engine.info.total_blocks


def test_another_salt_shares_nothing(drive: Drive) -> None:
    tokens = prompt(64, seed=6)
    names = [
        {bytes(name) for name in drive.prepare(drive.wire(tokens, max_tokens=1, changes=salt)).native.block_hashes}
        for salt in ({}, {"cache_salt": "a"}, {"cache_salt": "b"})
    ]
    assert not names[0] & names[1] and not names[1] & names[2] and not names[0] & names[2]


def test_what_it_encodes_reads_as_the_twins_of_the_wire(drive: Drive) -> None:
    engine_id = drive.start(drive.wire([1, 2, 3], max_tokens=1, logprobs=2, temperature=0))
    result = drive.engine.step()
    data = drive.engine.encode([WireOutput("replayed", [4, 5]), *result.outputs])
    replayed, own = codec.decode(WireOutputs, data).outputs
    assert (replayed.request_id, replayed.new_token_ids, replayed.finish_reason) == ("replayed", [4, 5], None)
    assert (own.request_id, len(own.new_token_ids), own.finish_reason) == (engine_id, 1, FINISH_LENGTH)
    drive.finish()


def test_rare_acts_answer_or_raise(drive: Drive) -> None:
    assert drive.engine.call("reset_prefix_cache", {}) is True
    with pytest.raises(Refused, match="no_such_act"):
        drive.engine.call("no_such_act", {})
    drive.engine.take_block_changes()


def test_flags_that_vllm_does_not_know_fail_the_start_by_name(drive: Drive) -> None:
    factory = importlib.import_module("shoal.instance.engine_factory")
    config = importlib.import_module("shoal.proto.config").parse_config(
        {"engine": {"extra_args": ["--no-such-flag", "3"]}}
    )
    with pytest.raises(StartFailed, match="--no-such-flag"):
        factory.build_engine(config)


# -- the names it leans on, on a live engine (see test_vllm_seam.py for those without one)


def test_the_parts_of_the_engine_that_are_reached_into_are_there(drive: Drive) -> None:
    core, scheduler = drive.engine.core, drive.engine.core.scheduler
    assert core.step_fn.__func__ in (type(core).step, type(core).step_with_batch_queue)
    assert core.batch_queue is None  # no asynchronous scheduling on CPUs
    assert core.request_block_hasher is not None
    for name in ("running", "waiting", "kv_holding_waiting", "requests", "kv_cache_manager", "kv_event_publisher"):
        assert hasattr(scheduler, name), name
    assert len(list(scheduler.waiting)) == len(list(scheduler.kv_holding_waiting)) == 0
    assert scheduler.kv_event_publisher is drive.engine.events
    assert scheduler.kv_cache_manager.block_pool.get_num_free_blocks() == drive.engine.pool.num_gpu_blocks - 1
    rows = runner_rows(drive)
    assert type(rows).__name__ == "SeededRows"
    assert core.collective_rpc("shoal_put_row", args=({**_row(), "req_id": "probe"},)) == [None]
    row = rows.pop("probe")
    assert type(row.generator).__name__ == "RewindableGenerator"


def _row() -> dict[str, Any]:
    params = importlib.import_module("shoal.instance.vllm_seam").SamplingParams(seed=1, max_tokens=9)
    return {"prompt_token_ids": [1], "sampling_params": params, "output_token_ids": [2, 3], "lora_request": None}
