"""The arithmetic of `bench pool`: its score, its working set, what its index costs; and one small cell for real."""

import argparse
import random

import pytest

from shoal.bench import pool
from shoal.proto.errors import InvalidArgument


def arguments(**given: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    pool.add_arguments(parser)
    return argparse.Namespace(**vars(parser.parse_args([])) | given)


def test_the_working_set_is_four_times_the_cache_unless_it_is_given(tmp_path, monkeypatch):
    for text, mib in (("32768K\n", 128), ("16M", 64)):
        monkeypatch.setattr(pool, "CACHE_FILE", tmp_path / "size")
        pool.CACHE_FILE.write_text(text)
        assert pool.working_set_bytes(arguments()) == mib << 20
    assert pool.working_set_bytes(arguments(working_set_mib=3)) == 3 << 20


def test_the_score_is_the_arenas_at_256_kib_and_the_index_of_the_largest_size():
    cells = [
        {"path": path, "bytes": size, "ratio_to_memcpy": ratio, "ratio_verified": ratio / 2}
        for path, size, ratio in (("arena", 4096, 0.1), ("arena", 256 << 10, 0.8), ("stream", 256 << 10, 0.3))
    ]
    said = pool.score(cells, {1000: (9.0, 150.0), 10: (5.0, 400.0)}, 1 << 20)
    assert (said["ratio_to_memcpy_256k"], said["ratio_verified_256k"]) == (0.8, 0.4)
    assert said["bytes_of_metadata_per_block"] == 150.0
    assert said["lookup_us_p50"] == {"1000": 9.0, "10": 5.0}


def test_without_a_cell_of_256_kib_there_is_no_ratio():
    said = pool.score([], {17: (1.0, 1.0)}, 1)
    assert said["ratio_to_memcpy_256k"] is None and said["ratio_verified_256k"] is None


def test_metadata_of_a_block_is_counted_and_bounded():
    lookup_us, metadata_bytes = pool.measure_index(2000, random.Random(0))
    assert lookup_us > 0
    assert 48 <= metadata_bytes < 2000  # the key alone is 48


@pytest.mark.parametrize("wrong", [{"sizes": [32]}, {"sizes": [100]}, {"slots": 0}, {"index_blocks": [16]}])
def test_what_cannot_be_measured_is_refused(wrong):
    with pytest.raises(InvalidArgument):
        pool.check(arguments(**wrong))


def test_each_ratio_is_the_median_over_calls_and_not_of_medians(monkeypatch):
    calls = [(1.0, 2.0, 4.0, 0.1), (4.0, 4.0, 8.0, 0.1), (9.0, 10.0, 90.0, 0.4)]
    monkeypatch.setattr(pool, "triples", lambda *_: iter(calls))
    far = argparse.Namespace(slot_bytes=1 << 30, lease=lambda _: None, part=lambda *_: None, buffer=None)
    far.client = argparse.Namespace(call=lambda *_: None)
    path = argparse.Namespace(name="arena", read=lambda *_, **__: None)
    monkeypatch.setattr(pool.pb, "Name", lambda name: None)
    monkeypatch.setattr(far, "lease", lambda _: argparse.Namespace(name="g"))
    said = pool.cell(far, path, arguments(slots=1))
    assert (said["ratio_to_memcpy"], said["ratio_verified"]) == (0.9, 0.25)
    assert said["gib_per_s"] == pytest.approx(1000 / 4)


def test_a_small_run_measures_arena_and_stream_for_real():
    given = arguments(sizes=[4096], transports=["arena", "stream"], slots=4, working_set_mib=1, seconds=0.05)
    given.index_blocks = [64]
    result = pool.run(given).result
    assert [(one["path"], one["bytes"]) for one in result["cells"]] == [("arena", 4096), ("stream", 4096)]
    assert all(one["calls"] >= 3 and one["verified_gib_per_s"] > 0 for one in result["cells"])
