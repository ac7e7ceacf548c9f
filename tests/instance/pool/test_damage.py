"""Whatever happens to a block's bytes or place, a reader gets the right bytes or none; and tenants share nothing."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shoal.instance.pool.arena import PREFIX, Arena, ArenaView, copy_verified, sweep, write_block
from shoal.instance.pool.audit import check
from shoal.instance.pool.key import Space, block_keys
from shoal.instance.pool.node import PoolNode
from shoal.instance.pool.seal import Header, Sealer
from shoal.instance.pool.slots import Place
from shoal.proto.errors import Overloaded, Unavailable
from tests.instance.pool.pools import SECRET, blank, block, key, keys, serving, sizes

SPACE = Space("m", "w" * 64, "float32", "LBHNC 1x1x32x64", 32, 0, 1, "seed")


@pytest.fixture
def arena(tmp_path):
    made = Arena(tmp_path, 4, 4096, node="t")
    made.add(1)
    yield made
    made.close()


def publish(arena: Arena, index: int, number: int, generation: int, length: int = 4096) -> Place:
    data = block(number, length)
    write_block(arena.segments[1], index, [data])
    arena.segments[1].set_header(
        index, Header(key(number), Sealer(SECRET).seal(key(number), [data]), generation, length)
    )
    return Place(1, index, generation)


def read(arena: Arena, place: Place, number: int, length: int = 4096, secret: str = SECRET) -> bool:
    view, into = ArenaView([str(arena.folder / arena.prefix)], 4, 4096), blank(length)
    good = copy_verified(view.segment(1), place, key(number), [into], Sealer(secret))
    assert not good or np.array_equal(into, block(number, length))
    return good


def test_a_sound_block_is_read_and_one_under_another_name_secret_or_length_is_not(arena):
    place = publish(arena, 2, number=7, generation=5)
    assert read(arena, place, 7)
    assert not read(arena, place, 8)
    assert not read(arena, place, 7, secret="another")
    assert not read(arena, place, 7, length=4095)
    assert not read(arena, Place(1, 2, 4), 7)
    assert not read(arena, Place(1, 3, 5), 7)


def damages(arena: Arena, counts: int, seed: int) -> dict[str, int]:
    """Does one kind of damage after the other to a published block; returns how many of each were read all the same."""
    rng, read_anyway = random.Random(seed), {"flipped": 0, "header": 0, "cut": 0, "stale": 0, "swapped": 0}
    segment, sealer, into = arena.segments[1], Sealer(SECRET), blank(4096)
    for number in range(counts):
        kind = rng.choice(list(read_anyway))
        place = publish(arena, number % 4, number % 50, generation=number + 1)
        name, at = key(number % 50), place.index
        match kind:
            case "flipped":
                segment.slot(at)[rng.randrange(4096)] ^= 1 << rng.randrange(8)
            case "header":
                start = at * 128 + rng.randrange(48 + 32 + 16)
                segment.bytes[start] ^= 1 << rng.randrange(8)
            case "cut":
                segment.slot(at)[rng.randrange(4095) :] = 0
            case "stale":
                publish(arena, at, number % 50 + 1, generation=number + 2)
            case "swapped":
                other = publish(arena, (at + 1) % 4, number % 50 + 1, generation=number + 1)
                place = Place(1, other.index, place.generation)
        read_anyway[kind] += copy_verified(segment, place, name, [into], sealer)
    return read_anyway


def test_every_flip_cut_stale_or_swapped_block_is_caught(arena):
    assert set(damages(arena, 2000, seed=1).values()) == {0}


@pytest.mark.slow
def test_every_one_of_a_hundred_thousand_damages_is_caught(arena):
    assert set(damages(arena, 100_000, seed=2).values()) == {0}


def test_a_damaged_block_is_a_miss_once_and_then_gone():
    with serving() as one:
        one.save(range(3))
        slot = one.node.ledger.index[key(1)]
        place = one.node.ledger.slots.place(slot)
        one.node.segment(place).slot(place.index)[100] ^= 4
        assert one.load(range(3)) == [True, False, True]
        assert one.pool.match(keys([1])) == 0
        assert one.save([1]) == [True]
        assert one.load(range(3)) == [True] * 3
        check(one.node.ledger)


def test_crying_wolf_removes_no_sound_block():
    with serving() as one:
        one.save([1])
        assert not one.node.damaged(key(1))
        assert one.load([1]) == [True]


# -- tenants and spaces


def test_two_tenants_never_find_each_others_blocks_and_one_tenant_finds_its_own():
    rng, node = random.Random(3), PoolNode("n1", sizes(2, slots=64, slot_bytes=4096), SECRET)
    try:
        for _ in range(10_000):
            hashes = [rng.randbytes(32) for _ in range(2)]
            mine, yours = (block_keys(SPACE.root(salt), hashes) for salt in rng.sample(["a", "b", "", "ab"], 2))
            granted = node.reserve("mine", mine, wait_s=9.0)
            node.publish(granted.name, [(name, bytes(32), 1) for name, _ in granted.blocks])
            assert (node.match(mine), node.match(yours)) == (2, 0)
            assert node.lease(yours, wait_s=1.0).blocks == ()
    finally:
        node.close()


@pytest.mark.parametrize(
    "change",
    [
        {"model": "m2"},
        {"weights": "v" * 64},
        {"dtype": "bfloat16"},
        {"layout": "LBNHC 1x1x32x64"},
        {"block_size": 64},
        {"tp_rank": 1},
        {"tp_size": 2},
        {"hash_seed": "other"},
    ],
)
def test_whatever_changes_the_bytes_changes_the_name(change):
    fields = {name: getattr(SPACE, name) for name in Space.__slots__}
    assert Space(**{**fields, **change}).root("a") != SPACE.root("a")
    assert Space(**fields).root("a") == SPACE.root("a")


# -- files


def test_a_file_system_without_room_refuses_and_keeps_nothing(tmp_path, monkeypatch):
    made = Arena(tmp_path, 4, 4096, node="t")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(Overloaded, match="No space left"):
        made.add(1)
    assert list(tmp_path.iterdir()) == []


def test_a_dropped_segment_is_not_found_and_what_is_mapped_of_it_is_no_block(arena):
    place = publish(arena, 0, number=1, generation=1)
    view = ArenaView([str(arena.folder / arena.prefix)], 4, 4096)
    mapped = view.segment(1)
    arena.drop(1)
    assert not copy_verified(mapped, place, key(1), [blank(4096)], Sealer(SECRET))
    view.forget([1])
    with pytest.raises(Unavailable):
        view.segment(1)


def test_the_owner_is_seen_to_use_its_files_so_nobody_tidies_them_away(arena):
    assert str(arena.path(1)) in Path("/proc/self/maps").read_text()


KILLED = """
import os, signal, sys
from pathlib import Path
from shoal.instance.pool.arena import Arena
made = Arena(Path(sys.argv[1]), 4, 4096, node="dead")
made.add(1)
made.add(2)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_files_of_a_killed_owner_are_swept_and_those_of_a_living_one_are_not(arena, tmp_path):
    assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], timeout=60).returncode == -9
    assert len(list(tmp_path.glob(f"{PREFIX}dead-*"))) == 2
    assert len(sweep(tmp_path)) == 2
    assert arena.path(1).exists()
    assert sweep(tmp_path) == []
