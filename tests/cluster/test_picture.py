"""A picture is bounded, holds no word of a request, and tells every move that ended once."""

from __future__ import annotations

from contextlib import aclosing

from shoal.cluster import picture as picture_module
from shoal.cluster.picture import GUESTS_PER_INSTANCE, PoolGlance, guests, pictures
from shoal.cluster.planner import Planner
from shoal.cluster.sight import Sight
from shoal.proto.config import MigrationConfig
from shoal.proto.v1 import controller_pb2 as pb
from shoal.proto.v1 import instance_pb2 as ipb
from shoal.router.board import Order
from tests.instance.pool.pools import TOKEN, serving


def sight(*residents: ipb.Resident) -> Sight:
    one = Sight(ipb.Welcome(), ipb.Load())
    one.residents = list(residents)
    return one


def test_of_a_crowd_the_moving_and_the_running_ones_are_drawn_first():
    waiting = [ipb.Resident(request_id=f"w{n}", state="waiting") for n in range(GUESTS_PER_INSTANCE)]
    running = ipb.Resident(request_id="r", state="running", output_tokens=3, tenant="ada")
    moving = ipb.Resident(request_id="m", state="moving")
    drawn = guests({"i0": sight(*waiting, running, moving), "i1": sight()})
    assert len(drawn) == GUESTS_PER_INSTANCE
    assert [one.request_id for one in drawn[:3]] == ["m", "r", "w0"]
    assert drawn[1] == pb.Guest(instance="i0", request_id="r", state="running", output_tokens=3)


async def test_a_move_is_told_while_it_flies_and_once_when_it_has_ended(monkeypatch):
    monkeypatch.setattr(picture_module, "PICTURE_S", 0.0)
    planner = Planner(MigrationConfig(), lambda slot, frame: None, lambda: 0.0)
    planner.begin(Order("old", 0, "f", "i0", "i1", "person", 0))
    planner.moved("i0", ipb.Moved(move_id=next(iter(planner.flights)), outcome="committed"))
    status = pb.StatusReply(act="1")
    pools = PoolGlance(set, TOKEN)
    async with aclosing(pictures(lambda: status, planner, pools)) as stream:
        assert not (await anext(stream)).ended, "what ended before anybody looked is no news"
        flight = planner.begin(Order("r", 0, "f", "i0", "i1", "person", 0))
        assert flight.report.move_id in planner.flights
        planner.moved("i0", ipb.Moved(move_id=flight.report.move_id, outcome="committed", target="i1"))
        (ended,) = (await anext(stream)).ended
        assert (ended.move_id, ended.outcome) == (flight.report.move_id, "committed")
        status.act = "2"
        assert not (await anext(stream)).ended


async def test_pools_say_how_full_they_are_and_one_that_is_gone_is_left_out():
    with serving() as one:
        one.save(range(3))
        glance = PoolGlance(lambda: {one.address, "127.0.0.1:1"}, TOKEN)
        await glance.look(0.0)
        (seen,) = glance.seen
        assert seen.memory_blocks - seen.free_blocks == 3 + 4, "four are the probe's"
    await glance.look(0.1)
    assert glance.seen == [seen], "asked so lately, it is not asked again"
