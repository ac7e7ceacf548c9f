"""What people may want of learned weights, and in which order."""

import pytest

from shoal.cluster.router_desk import RouterDesk, wanted_of
from shoal.proto.errors import InvalidArgument
from shoal.proto.v1 import controller_pb2 as pb
from shoal.router.pilot import Wanted
from shoal.router.rollout import Stage
from shoal.router.weights import RouterWeights, write_weights

RAW = write_weights(RouterWeights("v1"))


def desk(*acts: pb.RouterAct) -> RouterDesk:
    one = RouterDesk()
    for act in acts:
        assert one.act(act)
    return one


SHADOW, CANARY = pb.RouterAct(act="shadow", weights=RAW), pb.RouterAct(act="canary", share=0.25)


def test_before_the_first_act_nothing_is_wanted():
    assert wanted_of(pb.RouterWanted()) == wanted_of(desk().wanted) == Wanted(0, Stage.OFF)


def test_each_act_has_the_next_number_and_the_weights_stay():
    wanted = desk(SHADOW, CANARY).wanted
    assert wanted_of(wanted) == Wanted(2, Stage.CANARY, RAW, 0.25, "25% of the requests")
    assert wanted.version == "v1"


def test_nobody_is_told_of_a_file_that_is_not_believed():
    one = desk(SHADOW)
    with pytest.raises(InvalidArgument, match=r"residual\.queue"):
        one.act(pb.RouterAct(act="shadow", weights=b'{"version": "bad", "residual": {"queue": -1}}'))
    assert one.wanted.version == "v1" and one.wanted.serial == 1


@pytest.mark.parametrize(
    ("before", "act"),
    [
        ((), CANARY),
        ((SHADOW,), pb.RouterAct(act="canary", share=0.0)),
        ((SHADOW,), pb.RouterAct(act="canary", share=0.99)),
        ((SHADOW, CANARY, pb.RouterAct(act="rollback")), CANARY),
        ((), pb.RouterAct(act="dance")),
        ((), pb.RouterAct(act="shadow")),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(before, act):
    one = desk(*before)
    wanted = one.wanted
    with pytest.raises(InvalidArgument):
        one.act(act)
    assert one.wanted is wanted


def test_a_frontend_rolls_back_what_it_saw_fail_and_nothing_newer():
    one = desk(SHADOW, CANARY)
    assert not one.act(pb.RouterAct(act="rollback", serial=1, why="f0: goodput"))
    assert one.act(pb.RouterAct(act="rollback", serial=2, why="f0: goodput"))
    assert (one.wanted.stage, one.wanted.why) == ("back", "f0: goodput")
    assert not one.act(pb.RouterAct(act="rollback", serial=2, why="f1: goodput")), (
        "the second to say so changes nothing"
    )


def test_another_controller_goes_on_with_what_this_one_left():
    left = desk(SHADOW, CANARY).wanted
    assert RouterDesk.of(left.SerializeToString()).wanted == left
    assert RouterDesk.of(b"").wanted == RouterDesk.of(b"\xff\xff").wanted == RouterDesk().wanted
