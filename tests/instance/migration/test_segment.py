"""A segment is private memory of two processes as soon as its name is gone, and its name says whose it is."""

import os

import pytest

from shoal.instance.migration.segment import FOLDER, NoSegment, Segment


def test_what_one_side_writes_the_other_reads_after_the_name_is_gone():
    made = Segment.make(4096)
    opened = Segment.open(made.name)
    made.unlink()
    assert not os.path.exists(f"{FOLDER}/{made.name}")
    made.view[:3] = b"abc"
    assert bytes(opened.view[:4]) == b"abc\0" and len(opened.view) == 4096
    opened.close()
    made.close()


def test_its_name_bears_the_id_of_its_maker_for_the_reaper():
    made = Segment.make(4096)
    assert f"_{os.getpid()}_" in made.name
    made.unlink()
    made.close()


@pytest.mark.parametrize("name", ["../etc/passwd", "shoal_move_1_../../x", "", "shoal_move_1_0123456789abcdef"])
def test_a_name_that_is_none_of_ours_or_is_not_there_opens_nothing(name):
    with pytest.raises(NoSegment):
        Segment.open(name)
