"""Acts of people on the set of wanted slots: who is added, who leaves, in which order."""

import pytest

from shoal.cluster import fleet as f
from shoal.cluster.fleet import Fleet
from shoal.cluster.member import InstanceState as S
from shoal.proto.errors import InvalidArgument, NotFound


def ready(*names: str) -> dict[str, S]:
    return dict.fromkeys(names, S.READY)


def test_nothing_known_keeps_the_living_and_fills_up():
    assert f.first_fleet(3, {}).wanted == ("i0", "i1", "i2")
    assert f.first_fleet(3, {"i10": 1, "i2": 4}).wanted == ("i2", "i10", "i0")
    assert f.first_fleet(1, {"i1": 1, "i2": 1}).wanted == ("i1", "i2"), "scaled up by hand before: nobody is killed"


def test_scale_adds_names_that_nobody_has_and_takes_away_the_youngest():
    fleet = Fleet(("i0", "i2"))
    assert f.scale(fleet, 4, {**ready("i0", "i2"), "i1": S.DRAINING}).wanted == ("i0", "i2", "i3", "i4")
    assert f.scale(fleet, 1, ready("i0", "i2")).wanted == ("i0",)


def test_who_is_not_well_leaves_before_who_is():
    states = {"i0": S.QUARANTINED, "i1": S.STARTING, "i2": S.READY}
    fleet = Fleet(("i0", "i1", "i2"))
    assert f.scale(fleet, 2, states).wanted == ("i1", "i2")
    assert f.scale(fleet, 1, states).wanted == ("i2",)


@pytest.mark.parametrize("count", [0, -1, f.MAX_INSTANCES + 1])
def test_impossible_counts_are_refused(count: int):
    with pytest.raises(InvalidArgument, match="instances: must be 1 to"):
        f.scale(Fleet(("i0",)), count, {})


def test_only_a_wanted_instance_can_be_drained_and_never_the_last():
    assert f.drain(Fleet(("i0", "i1")), "i0").wanted == ("i1",)
    with pytest.raises(NotFound, match="i7"):
        f.drain(Fleet(("i0", "i1")), "i7")
    with pytest.raises(InvalidArgument, match="last instance"):
        f.drain(Fleet(("i0",)), "i0")


def test_a_rolling_restart_adds_one_then_drains_one_until_all_are_new():
    fleet = f.restart(Fleet(("i0", "i1")))
    fleet = f.advance_restart(fleet, ready("i0", "i1"))
    assert (fleet.wanted, fleet.replacement) == (("i0", "i1", "i2"), "i2")
    assert f.advance_restart(fleet, {**ready("i0", "i1"), "i2": S.STARTING}) == fleet
    fleet = f.advance_restart(fleet, ready("i0", "i1", "i2"))
    assert (fleet.wanted, fleet.retiring) == (("i1", "i2"), ("i1",))
    assert f.advance_restart(fleet, {**ready("i1", "i2"), "i0": S.DRAINING}) == fleet, "one at a time"
    fleet = f.advance_restart(fleet, ready("i1", "i2"))
    assert fleet.wanted == ("i1", "i2", "i0")
    fleet = f.advance_restart(fleet, ready("i0", "i1", "i2"))
    assert fleet == Fleet(("i2", "i0")) and fleet.words == ""


def test_a_restart_whose_new_one_cannot_start_ends_with_the_old_ones_serving():
    fleet = f.advance_restart(f.restart(Fleet(("i0", "i1"))), ready("i0", "i1"))
    assert f.advance_restart(fleet, {**ready("i0", "i1"), "i2": S.QUARANTINED}) == Fleet(("i0", "i1"))


def test_one_restart_at_a_time():
    with pytest.raises(InvalidArgument, match="2 to go"):
        f.restart(f.restart(Fleet(("i0", "i1"))))


def test_what_is_drained_by_hand_is_not_restarted_any_more():
    fleet = f.drain(f.restart(Fleet(("i0", "i1", "i2"))), "i1")
    assert (fleet.wanted, fleet.retiring) == (("i0", "i2"), ("i0", "i2"))
