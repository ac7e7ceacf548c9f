"""A pool node over its wire: instances of its node, other nodes, and what may go wrong between them."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from shoal.instance.pool.audit import check
from shoal.instance.pool.client import NodePool, PoolClient
from shoal.instance.pool.path_nixl import NixlAgent
from shoal.instance.pool.seal import Sealer
from shoal.instance.pool.slots import Tier
from shoal.proto import tracing
from shoal.proto.errors import Unavailable
from shoal.proto.v1 import pool_pb2 as pb
from tests.instance.pool.pools import SECRET, TOKEN, blank, block, introduce, key, keys, serving, sizes
from tests.tools.spans import recorded


def ask_take(source: str, numbers, *, insert: bool = True) -> pb.TakeAsk:
    return pb.TakeAsk(source=source, tenant="a", keys=keys(numbers), insert=insert, wait_s=5.0)


def test_what_one_instance_saves_another_loads():
    with serving() as one:
        assert one.save(range(5)) == [True] * 5
        other = NodePool(PoolClient(one.address, TOKEN), Sealer(SECRET))
        assert other.match(keys(range(9))) == 5
        into = [[blank()] for _ in range(5)]
        assert other.load(keys(range(5)), into, wait_s=5.0).blocks == (True,) * 5
        assert all(np.array_equal(into[n][0], block(n)) for n in range(5))
        other.close()
        check(one.node.ledger)


def test_a_block_in_pieces_is_the_same_block():
    with serving() as one:
        assert one.pool.save("a", keys([1]), [np.split(block(1), 4)], wait_s=5.0).blocks == (True,)
        into = blank()
        assert one.pool.load(keys([1]), [np.split(into, 2)], wait_s=5.0).blocks == (True,)
        assert np.array_equal(into, block(1))


def test_a_call_without_the_token_is_refused():
    with serving() as one:
        stranger = PoolClient(one.address, "guess")
        for method, ask in (("Describe", pb.DescribeAsk()), ("Lease", pb.Run(keys=keys([1])))):
            with pytest.raises(Unavailable, match="UNAUTHENTICATED"):
                stranger.call(method, ask)
        with pytest.raises(Unavailable, match="UNAUTHENTICATED"):
            stranger.fetch("probe", [0], lambda pieces: None, wait_s=2.0)
        stranger.close()


def test_a_full_pool_says_what_it_did_not_store():
    with serving(made=sizes(1, slots=8)) as one:
        assert one.save(range(4)) == [True] * 4  # four slots are the probe's
        lease = one.pool.client.call("Lease", pb.Run(keys=keys(range(4)), wait_s=9.0))
        assert one.save([9, 10]) == [False, False]
        assert one.load(range(4)) == [True] * 4
        one.pool.client.call("Release", pb.Name(name=lease.name))
        assert one.save([9, 10]) == [True, True]


def test_a_pool_that_is_gone_is_a_miss_and_not_an_error():
    with serving() as one:
        one.save([1])
        one.server.stop(grace=None).wait()
        assert one.load([1]) == [False]
        assert one.save([2]) == [False]


def test_a_writer_that_dies_before_publishing_leaves_nothing_to_find():
    with serving() as one:
        one.pool.client.call("Reserve", pb.Run(tenant="a", keys=keys([1]), wait_s=0.05))
        assert one.load([1]) == [False]
        time.sleep(0.2)
        assert one.save([1]) == [True]


def test_a_pin_outlives_the_turn_and_ends_by_its_time():
    with serving(made=sizes(2, slots=8)) as one:
        one.save([1, 2])
        pinned = one.pool.client.call("Lease", pb.Run(keys=keys([1, 2]), wait_s=0.3, pin=True))
        assert len(pinned.blocks) == 2
        one.save(range(10, 40))
        assert one.load([1, 2]) == [True, True]
        time.sleep(0.5)
        one.node.evict(keys([1, 2]))
        assert one.load([1, 2]) == [False, False]


# -- between nodes


@pytest.mark.parametrize("offered", [("arena",), ("stream",), ("arena", "nixl", "stream")])
def test_blocks_of_another_node_are_taken_and_verified(offered):
    with serving("n1", offered=offered) as one, serving("n2", offered=offered) as two:
        introduce(one, two)
        one.save(range(6))
        stored = two.pool.client.call("Take", ask_take("n1", range(8)))
        assert list(stored.keys) == keys(range(6))
        assert stored.path in offered
        assert two.load(range(8)) == [True] * 6 + [False] * 2
        again = two.pool.client.call("Take", ask_take("n1", range(6)))
        assert (list(again.keys), again.path) == (keys(range(6)), "")
        assert set(one.node.ledger.leases) == {"probe"}


def test_transfer_with_insert_is_found_at_the_target_and_transfer_alone_is_not():
    with serving("n1") as one, serving("n2") as two:
        introduce(one, two)
        one.save(range(4))
        ask = pb.TransferAsk(target="n2", tenant="a", keys=keys([0, 1]), insert=True, wait_s=5.0)
        assert list(one.pool.client.call("Transfer", ask).keys) == keys([0, 1])
        assert two.pool.match(keys(range(4))) == 2
        ask = pb.TransferAsk(target="n2", tenant="a", keys=keys([2, 3]), insert=False, wait_s=5.0)
        held = one.pool.client.call("Transfer", ask)
        assert two.pool.match(keys(range(4))) == 2
        published = two.pool.client.call("Publish", pb.PublishAsk(name=held.name, blocks=held.held))
        assert list(published.keys) == keys([2, 3])
        assert two.load(range(4)) == [True] * 4


def test_whoever_is_not_a_member_is_not_talked_to():
    with serving("n1") as one, serving("n2") as two:
        with pytest.raises(Unavailable, match="not a member"):
            two.pool.client.call("Take", ask_take("n1", [1]))
        introduce(one, two)
        two.service.set_peers({})
        with pytest.raises(Unavailable, match="not a member"):
            two.pool.client.call("Take", ask_take("n1", [1]))


def test_a_path_that_breaks_is_left_for_the_next_one_counted_and_logged(caplog):
    with serving("n1") as one, serving("n2", offered=("arena", "stream")) as two:
        introduce(one, two)
        one.save(range(4))
        peer = two.service.peers["n1"]
        peer.probe()
        peer.rates.gib_per_s["arena"] = 99.0

        def broken(*_args, **_more):
            raise Unavailable("cut")

        peer.paths["arena"].read = broken
        assert two.pool.client.call("Take", ask_take("n1", range(4))).path == "stream"
        assert peer.rates.falls == {("arena", "stream"): 1}
        assert "arena failed (cut), now stream" in caplog.text
        assert two.load(range(4)) == [True] * 4


def test_damage_on_the_way_is_not_stored():
    with serving("n1") as one, serving("n2", offered=("stream",)) as two:
        introduce(one, two)
        one.save(range(4))
        peer = two.service.peers["n1"]
        peer.probe()
        honest = peer.paths["stream"].read

        def flipped(grant, into, *, wait_s):
            honest(grant, into, wait_s=wait_s)
            into[2][77] ^= 1

        peer.paths["stream"].read = flipped
        stored = two.pool.client.call("Take", ask_take("n1", range(4)))
        assert set(stored.keys) == set(keys([0, 1, 3]))
        assert two.load([2]) == [False]
        check(two.node.ledger)


def test_a_peer_that_dies_in_a_transfer_leaves_no_reservation_and_no_wait():
    with serving("n2", offered=("stream",)) as two:
        with serving("n1") as one:
            introduce(one, two)
            one.save(range(4))
            two.pool.client.call("Take", ask_take("n1", [0]))
        start_s = time.monotonic()
        with pytest.raises(Unavailable):
            two.pool.client.call("Take", ask_take("n1", [1, 2]), wait_s=10.0)
        assert time.monotonic() - start_s < 6.0
        assert two.node.ledger.reservations == {}
        check(two.node.ledger)


def test_nixl_reads_into_reserved_slots():
    try:
        agents = [NixlAgent(name) for name in ("a1", "a2")]
    except Unavailable as exc:
        pytest.skip(str(exc))
    nixl = {"offered": ("nixl", "stream")}
    with serving("n1", nixl=agents[0], **nixl) as one, serving("n2", nixl=agents[1], **nixl) as two:
        introduce(one, two)
        one.save(range(6))
        two.service.peers["n1"].probe()
        assert two.service.peers["n1"].rates.gib_per_s.keys() == {"nixl", "stream"}
        two.service.peers["n1"].rates.gib_per_s["nixl"] = 99.0
        stored = two.pool.client.call("Take", ask_take("n1", range(6)))
        assert (list(stored.keys), stored.path) == (keys(range(6)), "nixl")
        one.node.resize(1, wait_s=5.0)
        one.node.resize(3, wait_s=5.0)
        one.save(range(100, 110))
        assert two.pool.client.call("Take", ask_take("n1", range(100, 110))).path == "nixl"
        assert two.load(range(100, 110)) == [True] * 10


# -- live size


def test_half_the_memory_goes_under_load_and_no_leased_or_hot_block_with_it():
    with serving(made=sizes(8, slots=16)) as one:
        total = one.node.ledger.slots.capacity[Tier.MEMORY] - 4
        stored = range(int(total * 0.9))
        for number in stored:
            assert one.save([number]) == [True]
        leased = list(stored)[::5]
        leases = [one.pool.client.call("Lease", pb.Run(keys=[key(n)], wait_s=60.0)) for n in leased]
        assert all(len(lease.blocks) == 1 for lease in leases)
        hot = list(stored)[1::10]
        assert one.load(hot) == [True] * len(hot)  # a lease of a run ends at the first gap: here there is none

        stop, failures, answers = threading.Event(), [], []

        def work(seed: int) -> None:
            rng, number = np.random.default_rng(seed), 10_000 * seed
            while not stop.is_set():
                try:
                    saved = one.save([number, number + 1])
                    answers.append(saved)
                    one.load([int(n) for n in rng.integers(0, len(stored), 4)])
                    one.load([number])
                except Exception as exc:
                    failures.append(repr(exc))
                number += 2

        workers = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
        for worker in workers:
            worker.start()
        shrunk = one.node.resize(4, wait_s=20.0)
        assert (shrunk.segments, shrunk.reason) == (4, "")
        assert one.load(leased) == [True] * len(leased)
        assert one.load(hot) == [True] * len(hot)
        for _ in range(5):
            assert one.node.resize(8, wait_s=20.0).segments == 8
            assert one.node.resize(4, wait_s=20.0).reason == ""
        grown = one.node.resize(8, wait_s=20.0)
        stop.set()
        for worker in workers:
            worker.join(10.0)
        assert failures == []
        assert len(answers) > 3
        assert grown.segments == 8
        for lease, number in zip(leases, leased, strict=True):
            located = one.pool.client.call("Locate", pb.Name(name=lease.name))
            assert [one_block.key for one_block in located.blocks] == [key(number)]
        assert one.load(leased) == [True] * len(leased)
        with one.node.lock:
            check(one.node.ledger)


def test_a_shrink_that_would_lose_leased_blocks_stops_and_says_why():
    with serving(made=sizes(2, slots=8)) as one:
        one.save(range(12))
        one.pool.client.call("Lease", pb.Run(keys=keys(range(12)), wait_s=60.0))
        done = one.pool.client.call("Resize", pb.ResizeAsk(segments=1, wait_s=0.2))
        assert (done.segments, done.stuck > 0) == (2, True)
        assert "no room" in done.reason
        assert one.load(range(12)) == [True] * 12
        assert one.node.ledger.slots.capacity[Tier.MEMORY] == 16


def test_what_memory_has_no_room_for_is_found_on_disk(tmp_path):
    with serving(made=sizes(2, slots=8, disk=4, folder=tmp_path)) as one:
        for number in range(24):
            assert one.save([number]) == [True]
            one.node.tick()
        assert one.load(range(24)) == [True] * 24
        assert one.node.ledger.disk.size > 0
    assert list(tmp_path.iterdir()) == []


def test_a_traced_load_is_seen_by_the_pool_below_its_caller():
    with recorded() as spans, serving() as one:
        one.save([1])
        parent = tracing.begin("pool load", root=True)
        loaded = one.pool.load(keys([1]), [[blank()]], wait_s=5.0, traceparent=parent.traceparent)
        parent.end()
        assert loaded.blocks == (True,)
        assert spans.parents() == {("pool load", "none"), ("pool Lease", "pool load")}
