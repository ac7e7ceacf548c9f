"""What the planner's shell keeps: moves to their end, what they cost, who rests; over frames, without a network."""

import pytest

from shoal.cluster.member import InstanceState, Slot
from shoal.cluster.planner import LOST_S, SETTLE_S, Planner
from shoal.proto.config import MigrationConfig
from shoal.proto.errors import InvalidArgument, NotFound
from shoal.proto.v1 import instance_pb2 as pb

RULES = MigrationConfig(headroom_tokens=0)


class World:
    """A planner with two instances, a clock, and what it sent."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.sent: list[tuple[str, pb.Up]] = []
        self.planner = Planner(RULES, lambda slot, frame: self.sent.append((slot, frame)), lambda: self.now_s)
        self.slots = {name: Slot(name, InstanceState.READY) for name in ("i0", "i1")}
        for name in self.slots:
            self.planner.welcomed(name, pb.Welcome(block_size=10, total_blocks=100, max_num_seqs=64, model="m"))
            self.report(name, free=100)

    def report(self, name: str, *, free: int, residents: list[pb.Resident] | None = None, **load: int) -> None:
        report = pb.StepReport(load=pb.Load(free_blocks=free, total_blocks=100, step_ms=20, **load))
        report.sent_s = self.now_s
        report.has_residents = True
        report.residents.extend(residents or [])
        self.planner.reported(name, report)

    def fill(self) -> None:
        """i0 is full; one request waits there."""
        running = pb.Resident(request_id="r", state="running", prompt_tokens=500, output_tokens=400, blocks=95)
        running.computed_tokens, running.max_new_tokens, running.unmovable = 899, 2000, "its grammar"
        waiting = pb.Resident(request_id="w", state="waiting", prompt_tokens=200, blocks=20, frontend="f0", epoch=3)
        waiting.since_s, waiting.max_new_tokens = self.now_s - 1, 100
        self.report("i0", free=5, residents=[running, waiting], running=1, waiting=1)

    def plan(self) -> list[tuple[str, str, str]]:
        before = len(self.sent)
        self.planner.plan(self.slots.values())
        return [(slot, up.move.request_id, up.move.target) for slot, up in self.sent[before:]]

    def end(self, outcome: str, **facts: object) -> None:
        move = self.sent[-1][1].move
        moved = pb.Moved(move_id=move.move_id, request_id=move.request_id, target=move.target, outcome=outcome, **facts)
        self.planner.moved("i0", moved)


@pytest.fixture
def world() -> World:
    return World()


def test_a_plan_is_sent_to_the_source_with_all_that_names_the_request(world: World):
    world.fill()
    assert world.plan() == [("i0", "w", "i1")]
    move = world.sent[-1][1].move
    assert (move.frontend, move.epoch, move.reason) == ("f0", 3, "balance") and move.move_id


def test_what_is_under_way_is_not_ordered_again_nor_while_reports_are_old(world: World):
    world.fill()
    assert len(world.plan()) == 1 and world.plan() == []
    world.end("moved_waiting")
    assert world.plan() == [], "the report that shows it at i0 is older than its move"
    world.now_s += SETTLE_S + 0.1
    world.report("i0", free=5)
    world.report("i1", free=80)
    assert world.plan() == [] and world.planner.flights == {}


def test_a_request_whose_move_failed_rests(world: World):
    world.fill()
    world.plan()
    world.end("no_room")
    world.now_s += SETTLE_S + 0.1
    world.fill()
    assert world.plan() == []
    world.now_s += RULES.rest_s
    world.fill()
    assert world.plan() == [("i0", "w", "i1")]


def test_a_move_that_nobody_tells_the_end_of_is_lost_after_a_while(world: World):
    world.fill()
    world.plan()
    world.now_s += LOST_S + 1
    world.plan()
    assert [one.outcome for one in world.planner.ended] == ["lost"]


def test_moves_of_an_instance_whose_stream_ended_are_over(world: World):
    world.fill()
    world.plan()
    world.planner.forget("i0")
    assert world.planner.ended[-1].outcome == "lost" and list(world.planner.in_flight()) == []


def test_what_moves_cost_is_learned_from_those_that_were_made(world: World):
    world.fill()
    world.plan()
    before = world.planner.costs
    world.end("committed", sent_bytes=4_000_000, copy_s=0.5, parked_s=0.1, stages=3, tokens=400)
    after = world.planner.costs
    assert after.bytes_per_token == 4_000_000 / 400
    assert after.bandwidth_bytes_per_s == pytest.approx(0.8 * before.bandwidth_bytes_per_s + 0.2 * 8e6)
    assert after.pause_s == pytest.approx(0.8 * before.pause_s + 0.2 * 0.1)
    assert world.planner.known == {("w", "i0"): 400}


def test_hosts_of_another_version_never_exchange_requests(world: World):
    other = pb.Welcome(block_size=10, total_blocks=100, model="m", vllm_version="next")
    world.planner.welcomed("i1", other)
    world.report("i1", free=100)
    world.fill()
    assert world.plan() == []


def test_pressure_asks_for_a_plan_at_once_and_only_when_it_begins(world: World):
    crossed = world.planner.crossed
    assert not crossed.is_set()
    world.fill()
    assert crossed.is_set()
    world.plan()
    world.fill()
    assert not crossed.is_set()


def test_a_person_names_a_request_by_a_part_that_only_one_has(world: World):
    world.report("i0", free=90, residents=[pb.Resident(request_id=f"cmpl-{n}", state="running") for n in ("ab", "ac")])
    planner = world.planner
    assert planner.begin_by_hand("ab", "i1").order.request_id == "cmpl-ab"
    with pytest.raises(NotFound, match="xyz"):
        planner.begin_by_hand("xyz", "i1")
    with pytest.raises(InvalidArgument, match=r"cmpl \(2\)"):
        planner.begin_by_hand("cmpl", "i1")
    for target in ("i0", "i9"):
        with pytest.raises(InvalidArgument, match="another instance than i0"):
            planner.begin_by_hand("ac", target)


def test_an_instance_is_empty_only_after_it_was_so_for_a_moment(world: World):
    assert not world.planner.is_empty("i1", world.now_s)
    assert world.planner.is_empty("i1", world.now_s + 1)
    world.report("i1", free=90, running=1)
    assert not world.planner.is_empty("i1", world.now_s + 1)
    assert not world.planner.is_empty("unknown", world.now_s + 1)


def test_prefill_speed_is_measured_on_requests_that_were_in_prefill_all_along(world: World):
    def prefilling(computed: int) -> list[pb.Resident]:
        one = pb.Resident(request_id="p", state="running", prompt_tokens=4000, computed_tokens=computed)
        return [one, pb.Resident(request_id="d", state="running", prompt_tokens=9, computed_tokens=9, output_tokens=1)]

    world.report("i0", free=50, residents=prefilling(500))
    before = world.planner.sights["i0"].prefill_s_per_token
    world.now_s += 0.1
    world.report("i0", free=50, residents=prefilling(1000))
    assert world.planner.sights["i0"].prefill_s_per_token == pytest.approx(0.8 * before + 0.2 * 0.1 / 500)
