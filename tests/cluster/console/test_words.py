"""What the page hears is short, whole and never a prompt."""

from __future__ import annotations

import json

from shoal.cluster.console.words import event, picture_tree, story_tree
from shoal.proto.v1 import controller_pb2 as pb
from shoal.router.contract import Placement, Term


def test_an_event_is_one_line_of_data_whatever_stands_in_it():
    assert event("picture", {"note": "a\n\nb"}) == b'event: picture\ndata: {"note":"a\\n\\nb"}\n\n'


def test_a_picture_seats_each_request_on_its_instance():
    status = pb.StatusReply(act="restarting, 1 to go", frontends=[pb.FrontendInfo(id="f")])
    status.instances.add(id="i0", state="ready", running=1, step_ms=3.14159, freeness=float("-inf"))
    status.instances.add(id="i1", state="draining")
    status.moves.add(move_id="m1", request_id="r", source="i0", target="i1")
    picture = pb.Picture(status=status)
    picture.guests.add(instance="i0", request_id="r", state="running", prompt_tokens=9, output_tokens=2)
    picture.ended.add(move_id="m0", outcome="committed")
    picture.pools.add(node_id="n", memory_blocks=8, free_blocks=3)
    tree = json.loads(json.dumps(picture_tree(picture, []), allow_nan=False))
    first, second = tree["instances"]
    assert first["guests"] == [["r", "running", 9, 0, 2, 0, 0]] and second["guests"] == []
    assert (first["step_ms"], first["freeness"]) == (3.142, None)
    assert [one["move_id"] for one in tree["moves"]] == ["m1", "m0"]
    assert (tree["act"], tree["frontends"], tree["pools"][0]["node_id"]) == ("restarting, 1 to go", 1, "n")


def test_a_decision_names_the_cheapest_other():
    terms = {
        "i0": (Term("work", 4.0, 2.0), Term("hit", 1.0, -1.0)),
        "i1": (Term("work", 9.0, 1.0),),
        "i2": (Term("work", 8.0, 1.0),),
    }
    tree = picture_tree(pb.Picture(), [("r", Placement("i0", 64, terms)), ("s", Placement("i1"))])
    assert tree["decisions"] == [
        {"request": "r", "instance": "i0", "cached": 64, "cost": 7.0, "next": "i2", "next_cost": 8.0},
        {"request": "s", "instance": "i1", "cached": 0, "cost": None, "next": "", "next_cost": None},
    ]


def test_a_story_says_zeros_too():
    told = pb.RequestStory(request_id="r", stays=[pb.Stay(instance="i0", epoch=1, why="placed")])
    (story,) = story_tree([told, pb.RequestStory(request_id="empty")])
    assert story["stays"][0]["pause_s"] == 0 and story["stays"][0]["terms"] == []
