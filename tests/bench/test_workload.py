import random

import pytest

from shoal.bench.stats import mean, percentile
from shoal.bench.traces import TraceRow
from shoal.bench.workload import (
    FixedLength,
    LoadRequest,
    LogNormalLength,
    PromptMaker,
    RequestClass,
    build_requests,
    parse_class,
    synthetic_rows,
)
from shoal.proto.errors import InvalidArgument

MAKER = PromptMaker(seed=1, vocabulary=256)


def prompt(index: int, tokens: int, blocks: tuple[int, ...] = (), block_tokens: int = 0) -> list[int]:
    return MAKER.prompt(LoadRequest(index, 0.0, tokens, 1, blocks, block_tokens))


def test_prompts_have_their_length_and_stay_in_the_vocabulary():
    assert len(prompt(0, 300)) == 300
    assert set(prompt(0, 5000)) == set(range(256))


def test_a_prompt_is_the_same_each_time_and_differs_between_requests():
    assert prompt(3, 64) == prompt(3, 64)
    assert prompt(3, 64) != prompt(4, 64)


def test_equal_blocks_are_equal_prefixes_and_the_rest_is_its_own():
    one, two = prompt(0, 70, (9, 5), 32), prompt(1, 70, (9, 6), 32)
    assert one[:32] == two[:32]
    assert one[32:64] != two[32:64] and one[64:] != two[64:]


def test_the_last_block_may_be_partial():
    assert prompt(0, 40, (9, 5), 32) == prompt(1, 64, (9, 5), 32)[:40]


def test_log_normal_lengths_keep_the_mean_and_have_a_tail():
    rng = random.Random(0)
    lengths = [LogNormalLength(200, 1.0, 100_000).draw(rng) for _ in range(20_000)]
    assert mean(lengths) == pytest.approx(200, rel=0.05)
    assert percentile(lengths, 99) > 5 * percentile(lengths, 50)
    assert max(LogNormalLength(200, 1.0, 300).draw(rng) for _ in range(1000)) == 300


def test_hang_ups_are_the_share_asked_for_and_come_before_the_end():
    rows = synthetic_rows([0.0] * 4000, FixedLength(10), FixedLength(20), random.Random(0))
    requests = build_requests(rows, random.Random(0), hang_up_share=0.25)
    points = [request.hang_up_after for request in requests if request.hang_up_after is not None]
    assert len(points) == pytest.approx(1000, rel=0.1)
    assert set(points) == set(range(20))


def test_classes_are_drawn_by_share():
    classes = [parse_class("chat:3"), parse_class("batch:1:acme:5")]
    assert classes[1] == RequestClass("batch", 1.0, "acme", 5)
    requests = build_requests([TraceRow(0, 1, 1)] * 4000, random.Random(0), classes=classes)
    assert sum(request.kind.name == "chat" for request in requests) == pytest.approx(3000, rel=0.05)


@pytest.mark.parametrize("text", ["chat", "chat:", ":1", "chat:0", "chat:x", "chat:1:a:b", "chat:1:a:1:2"])
def test_nonsense_classes_are_refused(text):
    with pytest.raises(InvalidArgument, match="class"):
        parse_class(text)


def test_an_impossible_share_is_refused():
    with pytest.raises(InvalidArgument, match="hangup"):
        build_requests([TraceRow(0, 1, 1)], random.Random(0), hang_up_share=1.5)
