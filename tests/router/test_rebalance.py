"""Who moves where, worked out by hand. Hosts have 100 blocks of 10 tokens and a step of 20 ms; 1 token is 1 kB, the
link takes 1 MB/s, so that 100 tokens are copied in 0.1 s."""

from dataclasses import replace

from shoal.proto.config import MigrationConfig
from shoal.router.board import Board, Costs, Order
from shoal.router.contract import Role
from shoal.router.fleet import Host, Job, Phase
from shoal.router.rebalance import plan

COSTS = Costs(bandwidth_bytes_per_s=1e6, pause_s=0.05, resubmit_s=0.02, bytes_per_token=1000, slowdown=0.0)
RULES = MigrationConfig(headroom_tokens=0, crowded_below_tokens=50, moves_per_instance=2, rest_s=2)


def host(name: str, free: int, *jobs: Job, **facts: object) -> Host:
    return Host(**{"id": name, "block_size": 10, "total_blocks": 100, "free_blocks": free, "jobs": jobs} | facts)


def running(name: str, blocks: int, output: int = 100, **facts: object) -> Job:
    """It has computed all but its newest token."""
    tokens = {"prompt_tokens": blocks * 10 - output, "output_tokens": output, "computed_tokens": blocks * 10 - 1}
    return Job(name, **{"blocks": blocks, **tokens} | facts)


def waiting(name: str, blocks: int, age_s: float = 1.0, **facts: object) -> Job:
    return Job(name, phase=Phase.WAITING, blocks=blocks, prompt_tokens=blocks * 10, age_s=age_s, **facts)


def moves(*hosts: Host, flying: list[Order] | None = None, rules: MigrationConfig = RULES, known=None, costs=COSTS):
    orders = plan(hosts, flying or [], rules, costs, known or {})
    return [(o.request_id, o.source, o.target, o.reason) for o in orders]


# Waiting requests


def test_a_request_that_waits_for_room_goes_where_there_is_room():
    full = host("a", 5, running("r", 95, output=500), waiting("w", 20))
    assert moves(full, host("b", 100)) == [("w", "a", "b", "balance")]


def test_a_request_that_waits_behind_prefills_goes_where_it_starts_sooner():
    """3,000 tokens ahead of it at 0.1 ms each are 0.3 s; at `b` there is nothing."""
    busy = host("a", 50, Job("p", blocks=10, prompt_tokens=3000), waiting("w", 5))
    assert moves(busy, host("b", 100)) == [("w", "a", "b", "balance")]


def test_a_gain_below_the_cost_moves_nothing():
    """600 tokens are 0.06 s, less than 0.02 s of resubmitting and 0.05 s of least gain."""
    busy = host("a", 50, Job("p", blocks=10, prompt_tokens=600), waiting("w", 5))
    assert moves(busy, host("b", 100)) == []


def test_who_has_only_waited_for_the_step_in_flight_stays():
    full = host("a", 5, running("r", 95, output=500), waiting("w", 20, age_s=0.03))
    assert moves(full, host("b", 100)) == []


def test_two_that_wait_do_not_both_get_the_same_room():
    """At `a` 64 more tokens are predicted of the running one; at `b` as many of the first that moves there."""
    full = host("a", 5, running("r", 95, output=50), waiting("w1", 60, age_s=2.0), waiting("w2", 60, age_s=1.0))
    assert moves(full, host("b", 100)) == [("w1", "a", "b", "balance")]


def test_each_that_was_sent_takes_its_turn_at_the_target():
    """At `a` 120 more tokens are predicted of `r`: 2.4 s. At `b` the first starts at once, the second after the 64
    steps of the first and its prefill of 0.06 s, the third after those of both: 2.68 s."""
    queue = [waiting(f"w{n}", 60, age_s=9.0 - n) for n in range(3)]
    full, rules = host("a", 5, running("r", 95, output=120), *queue), RULES.model_copy(update={"moves_per_instance": 9})
    assert [move[0] for move in moves(full, host("b", 100), rules=rules)] == ["w0", "w1"]
    flight = Order("w0", 1, "f", "a", "b", "balance", 0)
    assert [move[0] for move in moves(full, host("b", 100), rules=rules, flying=[flight])] == ["w1"]


def test_one_that_waits_and_is_on_its_way_has_its_place_at_the_target_and_none_at_the_source():
    a, b, flight = host("a", 5, running("r", 95), waiting("w", 60)), host("b", 65), Order("w", 1, "f", "a", "b", "x", 0)
    board = Board.of([a, b], [flight], RULES, COSTS, {})
    assert board.sides["a"].host.waiting == [] and board.sides["a"].host.free_blocks == 5
    there = board.sides["b"].host
    assert [job.request_id for job in there.waiting] == ["w"] and there.free_blocks == 65
    assert not board.movable(there.waiting[0])
    assert not board.has_room(there, running("x", 5)) and board.has_room(there, running("x", 4))


def test_one_that_has_come_but_was_reported_by_both_waits_once():
    a, b = host("a", 5, running("r", 95), waiting("w", 60)), host("b", 65, waiting("w", 60))
    board = Board.of([a, b], [], RULES, COSTS, {}, settling=[Order("w", 1, "f", "a", "b", "x", 0)])
    assert [len(side.host.waiting) for side in board.sides.values()] == [0, 1]


def test_a_high_request_that_waits_moves_for_its_priority():
    busy = host("a", 50, Job("p", blocks=10, prompt_tokens=3000), waiting("w", 5, priority=-1))
    assert moves(busy, host("b", 100)) == [("w", "a", "b", "priority")]


def test_prefills_that_wait_behind_it_do_not_delay_a_high_request():
    busy = host("a", 50, waiting("n", 40, age_s=9.0), waiting("w", 5, priority=-1))
    assert ("w", "a", "b", "priority") not in moves(busy, host("b", 0, running("r", 100, output=900)))


# De-fragmentation


def test_a_long_head_gets_room_made_by_the_shortest_that_suffice():
    """It needs 60 and 40 are free, nowhere more: 20 must go, and the short one is enough."""
    head = waiting("head", 60)
    a = host("a", 40, running("long", 40, output=300), running("short", 20, output=150), head)
    b = host("b", 50, running("x", 50, output=300))
    assert moves(a, b) == [("short", "a", "b", "defragment")]


def test_a_low_request_makes_room_before_a_shorter_normal_one():
    head = waiting("head", 60)
    a = host("a", 40, running("low", 35, output=300, priority=1), running("short", 25, output=150), head)
    b = host("b", 50, running("x", 50, output=300))
    assert moves(a, b) == [("low", "a", "b", "defragment")]


def test_no_room_is_made_by_a_higher_class():
    head = waiting("head", 60)
    a = host("a", 40, running("high", 60, output=300, priority=-1), head)
    assert moves(a, host("b", 70, running("x", 30, output=300, priority=1), max_running=1)) == []


def test_no_room_is_made_where_copying_takes_longer_than_the_wait():
    """The head waits for 64 steps of 20 ms, 1.3 s; at 10 kB/s the copy of 20 blocks takes 20 s."""
    head = waiting("head", 60)
    a = host("a", 40, running("long", 40, output=0), running("short", 20, output=0), head)
    b = host("b", 50, running("x", 50, output=300))
    assert moves(a, b, costs=replace(COSTS, bandwidth_bytes_per_s=1e4)) == []


# Relief


def crowded() -> Host:
    """20 blocks left for 5 requests: 40 tokens each, and they are predicted to want 5 x 100."""
    return host("a", 20, *(running(f"r{n}", 16 + n, output=100) for n in range(4)), running("r9", 10, output=100))


def test_a_crowded_host_gives_its_shortest_request_to_the_freest():
    assert moves(crowded(), host("b", 60, running("x", 40)), host("c", 90)) == [("r9", "a", "c", "balance")]


def test_a_host_that_is_not_crowded_gives_nothing():
    assert moves(host("a", 60, running("r", 40, output=900)), host("b", 100)) == []


def test_who_is_nearly_done_is_not_moved():
    jobs = [replace(job, max_new_tokens=job.output_tokens + 4) for job in crowded().jobs]
    assert moves(replace(crowded(), jobs=tuple(jobs)), host("c", 90)) == []


def test_a_moved_request_rests_longer_after_each_move():
    def with_age(age_s: float, count: int) -> list[tuple[str, str, str, str]]:
        jobs = tuple(replace(job, moves=count, age_s=age_s) for job in crowded().jobs)
        return moves(replace(crowded(), jobs=jobs), host("c", 90))

    assert with_age(1.9, 1) == [] and len(with_age(2.1, 1)) == 1
    assert with_age(3.9, 2) == [] and len(with_age(4.1, 2)) == 1


def test_a_target_never_ends_up_as_crowded_as_its_source_was():
    b = host("b", 15, *(running(f"x{n}", 20) for n in range(4)))
    assert moves(crowded(), b) == []


def test_what_cannot_move_or_is_on_its_way_stays():
    jobs = tuple(replace(job, unmovable="its grammar") for job in crowded().jobs)
    assert moves(replace(crowded(), jobs=jobs), host("c", 90)) == []
    jobs = tuple(replace(job, phase=Phase.MOVING) for job in crowded().jobs)
    assert moves(replace(crowded(), jobs=jobs), host("c", 90)) == []


def test_requests_of_other_classes_leave_the_headroom_of_a_high_one():
    """90 - 20 blocks of headroom, 300 tokens asked for: normal ones go, the high one stays."""
    a = host("a", 30, running("high", 20, output=30, priority=-1), running("n", 50, output=100))
    rules = RULES.model_copy(update={"headroom_tokens": 300})
    assert moves(a, host("b", 100), rules=rules) == [("n", "a", "b", "priority")]


# Bounds


def test_moves_in_flight_take_part_of_the_budget_and_of_the_room():
    flight = Order("r3", 1, "f", "a", "c", "balance", 1000)
    one = RULES.model_copy(update={"moves_per_instance": 1})
    assert moves(crowded(), host("c", 90), flying=[flight], rules=one) == []
    board = Board.of([crowded(), host("c", 90)], [flight], RULES, COSTS, {})
    assert board.sides["c"].host.free_blocks == 90 - 19


def test_what_the_target_is_known_to_hold_is_not_copied():
    order = plan([crowded(), host("c", 90)], [], RULES, COSTS, {("r9", "c"): 90})[0]
    assert order.copy_bytes == (99 - 90) * 1000


def test_hosts_of_another_kind_never_pair():
    assert moves(crowded(), host("c", 90, kind="another version")) == []


def test_fenced_and_draining_hosts_take_nothing():
    assert moves(crowded(), host("c", 90, placeable=False)) == []
    assert moves(crowded(), host("c", 90, draining=True)) == []


def test_switched_off_only_drains_move():
    off = RULES.model_copy(update={"enabled": False})
    assert moves(crowded(), host("c", 90), rules=off) == []


# Drain


def test_everything_leaves_a_draining_host_waiting_ones_first():
    a = host("a", 0, running("r", 60), running("s", 40), waiting("w", 50), draining=True)
    assert moves(a, host("b", 100)) == [("w", "a", "b", "drain"), ("s", "a", "b", "drain")]


def test_a_drain_keeps_to_the_number_of_copies_at_once():
    a = host("a", 10, *(running(f"r{n}", 10 + n) for n in range(8)), draining=True)
    assert [m[0] for m in moves(a, host("b", 100))] == ["r0", "r1"]


def test_a_drain_waits_while_there_is_no_room():
    a = host("a", 40, running("r", 60), draining=True)
    assert moves(a, host("b", 30, running("x", 70))) == []


# Roles


def test_what_decodes_on_a_prefill_host_is_passed_on_to_a_decode_host():
    source = host("p", 50, running("r", 20), running("new", 10, output=7), role=Role.PREFILL)
    other, decoder = host("q", 90, role=Role.PREFILL), host("d", 60, role=Role.DECODE)
    assert moves(source, other, decoder) == [("r", "p", "d", "disaggregate")]


def test_prefill_does_not_move_to_a_decode_host_unless_its_own_drains():
    full = host("a", 5, running("r", 95, output=500), waiting("w", 20))
    assert moves(full, host("d", 50, role=Role.DECODE)) == []
    leaving = replace(full, draining=True)
    assert ("w", "a", "d", "drain") in moves(leaving, host("d", 50, role=Role.DECODE))
