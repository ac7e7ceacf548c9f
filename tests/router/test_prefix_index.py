"""The prefix index tells the leading blocks that each instance holds, as one naive set per instance would."""

from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.router.prefix_index import PrefixIndex, Tier

A, B, C, D = (bytes([i]) * 4 for i in range(4))


def index_of(*instances: str, bound: int = 100) -> PrefixIndex:
    index = PrefixIndex(bound)
    for instance in instances:
        index.join(instance)
    return index


def test_match_counts_leading_blocks_only():
    index = index_of("x", "y", "z", "none")
    index.stored("x", [A, B, C])
    index.stored("y", [A, C, D])  # C and D stand behind a gap
    index.stored("z", [B, C, D])  # the head is missing
    assert index.match([A, B, C, D]) == {"x": 3, "y": 1}
    assert index.match([]) == {}


def test_removed_blocks_no_longer_match():
    index = index_of("x", "y")
    index.stored("x", [A, B])
    index.stored("y", [A, B])
    index.removed("x", [B, D])
    assert index.match([A, B]) == {"x": 1, "y": 2}
    index.clear("y")
    assert index.match([A, B]) == {"x": 1}
    index.check()


def test_instance_that_leaves_hands_its_slot_on_without_its_blocks():
    index = index_of("x", "y")
    index.stored("x", [A])
    slot = index.slot("x")
    index.leave("x")
    index.join("new")
    assert index.slot("new") == slot
    assert index.match([A]) == {}
    assert len(index) == 0
    index.check()


def test_joining_again_forgets_what_it_held():
    index = index_of("x")
    index.stored("x", [A])
    index.join("x")
    assert index.match([A]) == {}
    index.check()


def test_late_events_of_a_stranger_are_ignored():
    index = index_of("x")
    index.stored("gone", [A])
    index.removed("gone", [A])
    index.touch("gone", [A])
    index.clear("gone")
    assert len(index) == 0
    index.check()


def test_bound_drops_the_tail_of_a_chain_before_its_head():
    index = index_of("x", bound=3)
    index.stored("x", [A, B, C, D])
    assert index.match([A, B, C, D]) == {"x": 3}
    assert len(index.held("x")) == 3
    index.check()


def test_touched_blocks_outlive_newer_ones():
    index = index_of("x", bound=2)
    index.stored("x", [A])
    index.stored("x", [B])
    index.touch("x", [A])
    index.stored("x", [C])
    assert (index.match([A]), index.match([B]), index.match([C])) == ({"x": 1}, {}, {"x": 1})


def test_all_instances_share_one_bound():
    index = PrefixIndex(100, max_blocks=6)
    index.join("x")
    index.stored("x", [A, B, C, D])
    assert index.match([A, B, C, D]) == {"x": 4}
    index.join("y")  # three each
    index.stored("y", [A, B, C, D])
    assert index.match([A, B, C, D]) == {"x": 3, "y": 3}
    index.check()


def test_a_large_ledger_forgets_a_sixteenth_at_a_time():
    index = index_of("x", bound=160)
    chain = [n.to_bytes(2, "big") for n in range(161)]
    index.stored("x", chain)
    assert index.match(chain) == {"x": 150}
    index.check()


def test_slower_tiers_extend_what_a_faster_one_holds_and_bridge_its_gaps():
    index = index_of("x", "y")
    index.stored("x", [A, C])
    index.stored("x", [B], Tier.POOL)
    index.stored("x", [D], Tier.DISK)
    index.stored("y", [A, B], Tier.POOL)
    chain = [A, B, C, D]
    assert index.match(chain) == {"x": 1}
    assert index.match(chain, Tier.POOL) == {"x": 3, "y": 2}
    assert index.match(chain, Tier.DISK) == {"x": 4, "y": 2}
    index.clear("x", Tier.POOL)
    assert index.match(chain, Tier.DISK) == {"x": 1, "y": 2}
    index.removed("y", [A], Tier.POOL)
    assert index.match(chain, Tier.DISK) == {"x": 1}
    index.check()


@pytest.mark.parametrize("instances", [1, 7, 8, 9, 65, 512])
def test_depths_by_slot_agree_with_match(instances):
    names = [f"i{n}" for n in range(instances)]
    index = index_of(*names)
    for n, name in enumerate(names):
        index.stored(name, [A, B, C, D][: n % 5])
    match = index.match([A, B, C, D])
    depths = index.depths([A, B, C, D])
    assert [depths[index.slot(name)] for name in names] == [match.get(name, 0) for name in names]
    assert index.depths([]).tolist() == [0] * instances


def test_depths_of_an_empty_cluster_are_empty():
    assert PrefixIndex(4).depths([A]).tolist() == []


class NaiveIndex:
    """The same promises, one ordered set per instance."""

    def __init__(self, bound: int) -> None:
        self.bound, self.held = bound, {}

    def apply(self, act: str, instance: str, hashes: list[bytes]) -> None:
        if act == "join":
            self.held[instance] = OrderedDict()
        elif act == "leave":
            self.held.pop(instance, None)
        elif instance in self.held:
            self.change(act, self.held[instance], hashes)

    def change(self, act: str, held: OrderedDict, hashes: list[bytes]) -> None:
        if act == "clear":
            held.clear()
        near = 2 * len(held) > self.bound  # below that `touch` is not worth its time
        for block in reversed(hashes):
            if act == "removed":
                held.pop(block, None)
            elif act == "stored" or (act == "touch" and near and block in held):
                held.pop(block, None)
                held[block] = None
        while len(held) > self.bound:
            held.popitem(last=False)

    def match(self, hashes: list[bytes]) -> dict[str, int]:
        runs = {}
        for instance, held in self.held.items():
            run = next((n for n, block in enumerate(hashes) if block not in held), len(hashes))
            runs |= {instance: run} if run else {}
        return runs


BLOCKS = st.lists(st.integers(0, 9).map(lambda n: bytes([n])), max_size=6)
ACTS = st.sampled_from(["join", "join", "leave", "stored", "stored", "stored", "removed", "touch", "clear"])
NAMES = st.sampled_from(["a", "b", "c", "d"])


@given(
    acts=st.lists(st.tuples(ACTS, NAMES, BLOCKS), max_size=40),
    chains=st.lists(BLOCKS, max_size=4),
    bound=st.integers(1, 8),
)
def test_index_agrees_with_a_naive_model_after_any_events(acts, chains, bound):
    index, naive = PrefixIndex(bound), NaiveIndex(bound)
    for act, instance, hashes in acts:
        naive.apply(act, instance, hashes)
        getattr(index, act)(instance, *([hashes] if act in ("stored", "removed", "touch") else []))
        index.check()
    for chain in chains:
        expected = naive.match(chain)
        assert index.match(chain) == expected
        depths = index.depths(chain)
        assert {name: depths[index.slot(name)] for name in naive.held} == {n: expected.get(n, 0) for n in naive.held}
