"""The oracle finds each kind of violation, names it, and is silent where all is well."""

import itertools
import subprocess
import threading
from multiprocessing import shared_memory

import pytest

from shoal.bench.oracle import (
    Resources,
    Stream,
    check_blocks,
    check_outcomes,
    check_resources,
    check_tokens,
    check_whole,
    settle,
)

REFERENCE = {"r": [5, 6, 7]}


@pytest.mark.parametrize(
    ("events", "word"),
    [
        ([(0, 5), (1, 6), (2, 7)], None),
        ([(0, 5), (1, 6)], None),
        ([], None),
        ([(0, 5), (2, 7)], "index 2 skipped to where 1 was due"),
        ([(1, 6)], "index 1 skipped to where 0 was due"),
        ([(0, 5), (1, 6), (1, 6)], "index 1 repeated where 2 was due"),
        ([(0, 5), (1, 9)], "token 9 at 1, the reference has 6"),
        ([(0, 5), (1, 6), (2, 7), (3, 8)], "token 8 at 3, but the reference has only 3"),
    ],
)
def test_tokens(events, word):
    found = check_tokens({"r": Stream(events)}, REFERENCE)
    assert len(found) == (word is not None)
    assert word is None or word in found[0]


def test_a_stream_that_is_short_is_found_where_it_must_be_whole():
    assert check_whole({"r": Stream([(0, 5), (1, 6)])}, REFERENCE) == ["P1 r: 2 tokens of 3"]
    assert check_whole({"r": Stream([(0, 5), (1, 6), (2, 7)])}, REFERENCE) == []


def instance(**changes):
    return {"id": "i0", "state": "ready", "running": 0, "waiting": 0, "free_blocks": 9, "total_blocks": 9, **changes}


def test_blocks_and_slots():
    assert check_blocks({"instances": [instance(), instance(state="dead", free_blocks=0)]}) == []
    assert check_blocks({"instances": [instance(free_blocks=8)]}) == ["P2 i0: 8 of 9 blocks are free"]
    assert check_blocks({"instances": [instance(waiting=1)]}) == ["P2 i0: 0 running, 1 waiting"]


def test_outcomes():
    seen = {"a": Stream([], ["stop"]), "b": Stream([], ["stop", "abort"]), "c": Stream([], ["odd"]), "e": Stream([])}
    found = check_outcomes(seen, submitted="abcd", closed_list=["stop", "abort"])
    assert found == [
        "P6 e: never submitted",
        "P6 b: 2 outcomes ['stop', 'abort']",
        "P6 c: outcome 'odd' is not on the list",
        "P6 d: 0 outcomes []",
    ]


def test_resources_left_behind_are_named_and_gone_ones_are_not(tmp_path):
    before = Resources.of()
    assert check_resources(before, Resources.of()) == []
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    child = subprocess.Popen(["sleep", "60"])
    memory = shared_memory.SharedMemory(create=True, size=64)
    with (tmp_path / "open").open("w"):
        found = " ".join(check_resources(before, Resources.of(), spare_threads=0))
    for word in ("open files", "more threads", str(child.pid), memory.name):
        assert word in found
    stop.set()
    thread.join()
    child.kill()
    child.wait()
    memory.close()
    memory.unlink()
    # The interpreter keeps one helper process for shared memory; it is not ours to count.
    after = Resources.of()
    assert not [line for line in check_resources(before, after) if "thread" in line or str(child.pid) in line]


def test_settle_waits_for_the_end_of_violations_but_not_for_ever():
    answers = itertools.chain([["x"], ["x"]], itertools.repeat([]))
    assert settle(lambda: next(answers), within_s=10, every_s=0) == []
    assert settle(lambda: ["y"], within_s=0.01, every_s=0) == ["y"]
