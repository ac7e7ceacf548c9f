"""The index believes a source only while none of its changes was missed."""

import msgspec
import pytest

from shoal.proto.errors import BadMessage
from shoal.router.block_feed import BlockFeed, Holding
from shoal.router.prefix_index import PrefixIndex, Tier

A, B, C = (bytes([i]) * 4 for i in range(3))
CHAIN = [A, B, C]


@pytest.fixture
def index() -> PrefixIndex:
    return PrefixIndex(100)


@pytest.fixture
def feed(index) -> BlockFeed:
    feed = BlockFeed(index)
    feed.join("x")
    return feed


def test_batches_that_go_on_where_the_last_one_ended_are_believed(feed, index):
    assert not feed.batch("x", [("stored", [A]), ("stored", [B, C])], 2)
    assert not feed.batch("x", [], 2)
    assert not feed.batch("x", [("removed", [C])], 3)
    assert index.match(CHAIN) == {"x": 2}


@pytest.mark.parametrize("sequence", [3, 5, 1])
def test_missed_change_takes_everything_back_and_is_asked_for_once(feed, index, sequence):
    feed.batch("x", [("stored", [A]), ("stored", [B])], 2)
    assert feed.batch("x", [("stored", [C])] * 2, sequence)
    assert not feed.batch("x", [("stored", [A])], sequence + 1)  # goes on from what was missed: still not believed
    assert index.match(CHAIN) == {}


def test_missed_change_is_noticed_by_an_empty_batch(feed, index):
    feed.batch("x", [("stored", [A])], 1)
    assert feed.batch("x", [], 2)
    assert index.match(CHAIN) == {}


def test_list_that_begins_with_cleared_ends_the_loss(feed, index):
    assert feed.batch("x", [("stored", [C])], 9)
    assert not feed.batch("x", [("cleared", []), ("stored", [A, B])], 12)  # a whole list has no numbers of its own
    assert not feed.batch("x", [("stored", [C])], 13)
    assert index.match(CHAIN) == {"x": 3}


def test_tiers_are_numbered_apart(feed, index):
    feed.batch("x", [("stored", [A])], 1)
    feed.batch("x", [("stored", [B])], 1, Tier.POOL)
    assert feed.batch("x", [], 5, Tier.POOL)
    assert index.match(CHAIN, Tier.POOL) == {"x": 1}


def test_strangers_are_never_lost_and_a_new_life_starts_over(feed, index):
    assert not feed.batch("gone", [("stored", [A])], 7)
    feed.batch("x", [("stored", [A])], 1)
    feed.join("x")
    assert not feed.batch("x", [("stored", [A, B])], 1)
    assert index.match(CHAIN) == {"x": 2}


def test_unknown_kind_is_a_bad_message(feed):
    with pytest.raises(BadMessage, match="renamed"):
        feed.batch("x", [("renamed", [A])], 1)


def test_warm_restart_goes_on_with_what_was_known(feed, index):
    feed.join("y")
    feed.batch("x", [("stored", [A, B])], 1)
    feed.batch("y", [("stored", [A])], 1, Tier.POOL)
    kept = msgspec.json.decode(msgspec.json.encode(feed.holdings()), type=list[Holding])
    again = PrefixIndex(100)
    fresh = BlockFeed(again)
    for name in "xy":
        fresh.join(name)
    fresh.restore(kept)
    assert (again.match(CHAIN), again.match(CHAIN, Tier.POOL)) == ({"x": 2}, {"x": 2, "y": 1})
    assert again.held("x") == index.held("x")
    assert not fresh.batch("x", [("stored", [C])], 2)
    assert again.match(CHAIN) == {"x": 3}


def test_warm_restart_takes_back_what_its_source_does_not_go_on_from(feed, index):
    feed.restore([Holding("x", Tier.DEVICE, 5, (A, B)), Holding("gone", Tier.DEVICE, 5, (A,))])
    assert index.match(CHAIN) == {"x": 2}
    assert feed.batch("x", [("stored", [C])], 9)
    assert index.match(CHAIN) == {}


def test_warm_restart_does_not_touch_a_source_that_has_spoken(feed, index):
    feed.batch("x", [("stored", [A])], 1)
    feed.restore([Holding("x", Tier.DEVICE, 5, (A, B, C))])
    assert index.match(CHAIN) == {"x": 1}
