from shoal.cluster.cli.acts import move_line
from shoal.cluster.cli.top import as_screen
from shoal.proto.v1 import controller_pb2 as pb

MOVE = pb.MoveReport(request_id="cmpl-1", source="i0", target="i1", reason="drain", age_s=0.5)


def test_a_screen_shows_load_freeness_and_moves_of_each_instance():
    one = pb.InstanceStatus(id="i0", state="draining", running=3, waiting=1, free_blocks=25, total_blocks=100)
    one.freeness, one.step_ms = float("-inf"), 12.34
    text = as_screen(pb.StatusReply(instances=[one], moves=[MOVE], act="restarting, 1 to go"))
    lines = text.splitlines()
    assert lines[0] == "3 running, 1 waiting, 1 moves in flight  restarting, 1 to go"
    assert lines[3].split() == ["i0", "draining", "3", "1", "75", "%", "12.3", "-inf", "1", "0"]
    assert lines[-1].split() == ["i0", ">", "i1", "cmpl-1", "drain", "0.5"]


def test_a_move_is_told_in_one_line():
    ended = pb.MoveReport(outcome="no_room", detail="3 blocks", tokens=9)
    ended.MergeFrom(pb.MoveReport(request_id="r", source="i0", target="i1", reason="person"))
    assert move_line(ended) == "r  i0 > i1  person: no_room (3 blocks), 9 tokens, nothing copied"
