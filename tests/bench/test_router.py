"""`bench router` times every shape and counts the index's memory."""

import argparse

import pytest

from shoal.bench import router


def run(**given: object) -> dict:
    parser = argparse.ArgumentParser()
    router.add_arguments(parser)
    return router.run(argparse.Namespace(**vars(parser.parse_args([])) | given)).result


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(router, "SHAPES", ((3, 8), (9, 4)))
    monkeypatch.setattr(router, "SIZED_BLOCKS", 640)


def test_every_shape_is_reported_with_both_percentiles(small):
    result = run(decisions=20)
    for name in ("decision_us_p50", "decision_us_p99", "book_us_p50", "index_us_p50"):
        assert result[name].keys() == {"3x8", "9x4"}
        assert all(value > 0 for value in result[name].values())
    assert all(result["decision_us_p50"][shape] <= result["decision_us_p99"][shape] for shape in ("3x8", "9x4"))


def test_index_memory_counts_the_hash_itself_at_least(small):
    assert 32 < run(decisions=5)["index_bytes_per_block"] < 2000


def test_a_rival_that_is_not_installed_is_named_and_skipped(small, monkeypatch):
    monkeypatch.setattr(router, "_dynamo", lambda: None)
    assert "ai-dynamo-runtime" in run(decisions=5)["dynamo_index_us_p50"]


class NaiveTree:
    """Stands in for Dynamo's: notes what it is told."""

    def __init__(self) -> None:
        self.events, self.scores = [], {}

    def apply_event(self, worker: int, event: bytes) -> None:
        self.events.append((worker, event))

    def find_matches(self, chain: list[int]) -> "NaiveTree":
        assert all(isinstance(block, int) for block in chain)
        return self


def test_a_rival_is_told_the_same_holdings(small, monkeypatch):
    trees = []
    monkeypatch.setattr(router, "_dynamo", lambda: lambda: trees.append(NaiveTree()) or trees[-1])
    assert run(decisions=5)["dynamo_index_us_p50"].keys() == {"3x8", "9x4"}
    assert [len(tree.events) for tree in trees] == [3 * router.HELD_CHAINS, 9 * router.HELD_CHAINS]
