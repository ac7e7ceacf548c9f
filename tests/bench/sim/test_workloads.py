"""What each kind of configuration asks for, and what it is refused for."""

import json

import pytest

from shoal.bench.sim.config import parse_sim_config
from shoal.bench.sim.names import names_of
from shoal.bench.sim.workloads import build_workload
from shoal.proto.errors import InvalidArgument

ROWS = [
    {"timestamp": 1000 * number, "input_length": 40, "output_length": 10, "hash_ids": [0, number + 1, 77]}
    for number in range(4)
]


def requests(workload, **config):
    tree = {"workload": workload, "block_size": 16, "total_blocks": 100, **config}
    return list(build_workload(parse_sim_config(tree)).arrivals())


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "t.jsonl"
    text = "\n".join(
        json.dumps(
            {
                "arrival_time_ns": row["timestamp"] * 1_000_000,
                "input_toks": row["input_length"],
                "output_toks": row["output_length"],
                "hash_ids": row["hash_ids"],
            }
        )
        for row in ROWS
    )
    path.write_text(text)
    return {"kind": "trace", "file": str(path)}


def test_a_trace_keeps_times_lengths_and_what_is_shared(trace):
    asked = requests(trace)
    assert [request.arrival_s for request in asked] == [0, 1, 2, 3]
    assert {(request.prompt_tokens, request.output_tokens) for request in asked} == {(40, 10)}
    assert asked[0].names[0] == asked[1].names[0] != asked[0].names[1]
    assert asked[0].names[1] != asked[1].names[1]
    assert len(asked[0].names) == 3  # 50 tokens: the third block is the answer's, and its own
    assert asked[0].names[2] != asked[1].names[2]


def test_without_prefix_caching_nothing_has_a_name(trace):
    assert {request.names for request in requests(trace, prefix_caching=False)} == {()}


def test_copies_have_prefixes_of_their_own_and_the_rate_asked_for(trace):
    asked = requests({**trace, "copies": 3, "rate_rps": 11.0})
    assert len(asked) == 12
    assert len({request.names[0] for request in asked}) == 3
    assert asked[-1].arrival_s - asked[0].arrival_s == pytest.approx(1.0)


def test_classes_are_drawn_by_their_shares():
    classes = [{"name": "a", "share": 3}, {"name": "b", "tenant": "t", "priority": 5}]
    asked = requests({"kind": "synthetic", "requests": 400, "classes": classes})
    assert {(request.kind, request.tenant, request.priority) for request in asked} == {
        ("a", "default", 0),
        ("b", "t", 5),
    }
    assert sum(request.kind == "a" for request in asked) == pytest.approx(300, abs=40)


def test_lengths_stay_within_what_an_instance_has_room_for():
    asked = requests({"kind": "synthetic", "requests": 200, "input_tokens": 1500, "output_tokens": 300})
    assert max(request.prompt_tokens + request.output_tokens for request in asked) == 1600
    assert all(request.max_new_tokens >= request.output_tokens >= 1 for request in asked)


def test_the_seed_decides():
    workload = {"kind": "synthetic", "requests": 50}
    times = [[request.arrival_s for request in requests(workload, seed=seed)] for seed in (0, 0, 1)]
    assert times[0] == times[1] != times[2]


@pytest.mark.parametrize(
    ("tree", "named"),
    [
        ({}, "workload"),
        ({"workload": {"kind": "synthetic"}, "instnaces": 3}, "instnaces"),
        ({"workload": {"kind": "agents", "turns": 0}}, "workload.agents.turns"),
        ({"workload": {"kind": "dreams"}}, "workload"),
    ],
)
def test_a_wrong_key_is_named(tree, named):
    with pytest.raises(InvalidArgument, match=named):
        parse_sim_config(tree)


def test_ids_of_larger_and_smaller_blocks_name_the_chain_up_to_a_blocks_end():
    assert names_of((5, 6, 7, 8), 16, 32, 64) == tuple((id_).to_bytes(8, "big") for id_ in (6, 8))
    assert names_of((5, 6), 32, 16, 60) == (b"5/0", b"5/1", b"6/0")
    assert names_of((5, 6, 7), 16, 16, 33) == names_of((5, 6), 16, 16, 100)
    assert names_of((), 0, 16, 100) == ()
    with pytest.raises(InvalidArgument, match="block_size"):
        names_of((5,), 24, 16, 100)
