"""What a frontend remembers of its requests, and how it is told to a person."""

from shoal.cluster.cli.explain import as_text
from shoal.cluster.journal import Move, Ticket
from shoal.cluster.stories import Stories
from shoal.proto.v1 import controller_pb2 as pb
from shoal.router.contract import Placement, RouteRequest

PLACED = Placement("i0", 32)


def moved_ticket(**facts: object) -> Ticket:
    ticket = Ticket(RouteRequest("r", 10, 5), b"", b"", epoch=2)
    ticket.moves.append(Move("m", "drain", "i0", "i1", 7, 1000, 2, True, **facts))
    return ticket


def test_a_story_is_where_it_was_placed_and_each_move():
    stories = Stories()
    stories.placed("r", PLACED, 1, 10.0)
    stories.moved(moved_ticket(), "i1", 11.0)
    assert [(s.instance, s.epoch, s.why) for s in stories.find("r")["r"]] == [
        ("i0", 1, "placed"),
        ("i1", 2, "moved: drain"),
    ]


def test_what_came_back_or_was_placed_again_says_so():
    stories = Stories()
    stories.moved(moved_ticket(resubmitted=True), "i0", 1.0)
    stories.placed("q", PLACED, 3, 1.0)
    assert stories.find("r")["r"][0].why == "went back from i1"
    assert stories.find("q")["q"][0].why.startswith("placed again")


def test_the_whole_name_is_meant_before_a_part_of_it():
    stories = Stories()
    for name in ("cmpl-1", "cmpl-12"):
        stories.placed(name, PLACED, 1, 0.0)
    assert list(stories.find("cmpl-1")) == ["cmpl-1"]
    assert list(stories.find("cmpl")) == ["cmpl-1", "cmpl-12"] and stories.find("x") == {}


def test_only_the_newest_requests_are_kept():
    stories = Stories(kept=2)
    for number in range(5):
        stories.placed(f"r{number}", PLACED, 1, 0.0)
    assert list(stories.find("r")) == ["r3", "r4"]


def test_a_person_reads_why_it_was_placed_and_what_a_move_cost():
    story = pb.RequestStory(request_id="cmpl-1")
    first = story.stays.add(instance="i0", epoch=1, why="placed", age_s=3.0, cached_tokens=64)
    first.terms.add(candidate="i0", scorer="least_work", raw=100, weight=1)
    first.terms.add(candidate="i1", scorer="least_work", raw=250, weight=2)
    story.stays.add(instance="i1", epoch=2, why="moved: drain", sent_bytes=2_500_000, stages=3, pause_s=0.042)
    lines = as_text(story).splitlines()
    assert lines[0] == "cmpl-1" and "placed, 64 tokens cached there" in lines[1]
    assert lines[2].split() == ["i0", "100", "=", "1", "x", "least_work", "100"]
    assert lines[3].split()[:2] == ["i1", "500"]
    assert lines[4].endswith("moved: drain: 2.50 MB in 3 stages, pause 42 ms")
