"""The table of programs: where each is at home, what it has had, and for how long it is expected back."""

import pytest

from shoal.router.contract import Placement, RouteRequest
from shoal.router.programs import FIRST_PAUSE_S, LEARNED, PATIENCE, Programs
from tests.tools.routing import instance

FLEET = [instance("a"), instance("b")]


def call(name: str, tokens: int = 100, program: str = "p", arrived_s: float = 0.0) -> RouteRequest:
    return RouteRequest(name, tokens, 50, program=program, arrived_s=arrived_s)


def resting(programs: Programs, now_s: float) -> list[tuple[float, float]]:
    programs.check()
    return [(float(count), float(tokens)) for count, tokens in zip(*programs.resting(FLEET, now_s), strict=True)]


def after_one_call(programs: Programs, program: str = "p", at: str = "a") -> None:
    request = call(f"{program}0", program=program)
    programs.placed(request, Placement(at, cached_tokens=40), 0.0)
    programs.ended(request, 20, 5.0)


def test_a_program_rests_where_its_last_call_was_with_what_only_it_needs():
    programs = Programs()
    after_one_call(programs)
    assert programs.home("p") == "a"
    assert resting(programs, 5.0) == [(1, 80), (0, 0)]  # 100 + 20 tokens, of which 40 were there for others
    assert programs["p"].attained_tokens == 60 + 20


def test_a_program_with_an_open_call_does_not_rest():
    programs = Programs()
    after_one_call(programs)
    first, second = call("p1", arrived_s=6.0), call("p2", arrived_s=6.0)
    for request in (first, second):
        programs.placed(request, Placement("b"), 6.0)
    programs.ended(first, 20, 7.0)
    assert resting(programs, 7.0) == [(0, 0), (0, 0)]
    programs.ended(second, 20, 8.0)
    assert resting(programs, 8.0) == [(0, 0), (1, 80)]


def test_who_stays_away_for_long_is_no_longer_expected_but_is_still_known():
    programs = Programs()
    after_one_call(programs)
    assert resting(programs, 5.0 + PATIENCE * FIRST_PAUSE_S) == [(1, 80), (0, 0)]
    assert resting(programs, 5.1 + PATIENCE * FIRST_PAUSE_S) == [(0, 0), (0, 0)]
    assert programs.home("p") == "a"


def test_the_usual_pause_is_learned_from_those_that_came_back():
    programs = Programs()
    after_one_call(programs)
    programs.placed(call("p1", arrived_s=7.0), Placement("a"), 9.0)
    assert programs.pause_s == pytest.approx(FIRST_PAUSE_S + LEARNED * (2.0 - FIRST_PAUSE_S))


def test_a_call_knows_when_its_program_began_and_how_many_came_before():
    programs = Programs()
    programs.placed(call("p0", arrived_s=3.0), Placement("a"), 3.5)
    known = programs.known(call("p1", arrived_s=9.0))
    assert (known.began_s, known.traits.turn) == (3.0, 1)
    assert programs.known(call("x", program="x")).began_s is None


def test_a_call_that_is_placed_again_counts_once_and_takes_its_home_along():
    programs = Programs()
    for where in ("a", "b"):
        programs.placed(call("p0"), Placement(where), 0.0)
    assert (programs.home("p"), programs["p"].calls) == ("b", 1)


def test_nobody_is_at_home_where_the_instance_is_gone():
    programs = Programs()
    after_one_call(programs)
    programs.leave("a")
    assert programs.home("p") == "" and resting(programs, 5.0) == [(0, 0), (0, 0)]
    programs.placed(call("p1", arrived_s=6.0), Placement("b"), 6.0)
    assert programs.home("p") == "b" and resting(programs, 6.0) == [(0, 0), (0, 0)]


def test_the_table_is_bounded(monkeypatch):
    monkeypatch.setattr("shoal.router.programs.MAX_PROGRAMS", 2)
    programs = Programs()
    for name in ("p", "q", "r"):
        after_one_call(programs, name)
    assert len(programs) == 2 and programs.home("p") == ""
    assert resting(programs, 5.0) == [(2, 160), (0, 0)]
