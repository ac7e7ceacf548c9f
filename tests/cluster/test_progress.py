"""When a starting cluster is up, when it is lost, and how that is told."""

from __future__ import annotations

from shoal.cluster.progress import Verdict, judge, progress_lines
from shoal.proto.config import parse_config
from shoal.proto.v1 import controller_pb2 as pb

CONFIG = parse_config({"instances": 2, "frontends": 1, "start_timeout_s": 100})


def status(*states: str, deaths: int = 0, note: str = "", frontends: tuple[str, ...] = ()) -> pb.StatusReply:
    instances = [pb.InstanceStatus(id=f"i{n}", state=s, deaths=deaths, note=note) for n, s in enumerate(states)]
    return pb.StatusReply(instances=instances, frontends=[pb.FrontendInfo(id="f", state=s) for s in frontends])


def verdict(reply: pb.StatusReply, *, frontends_error: str = "", waited_s: float = 1.0) -> Verdict:
    return judge(reply, CONFIG, frontends_error=frontends_error, waited_s=waited_s)


def test_it_is_up_when_all_instances_and_frontends_are():
    assert verdict(status("ready", "starting", frontends=("ready",))) == Verdict(False)
    assert verdict(status("ready", "ready")) == Verdict(False)
    assert verdict(status("ready", "ready", frontends=("starting",))) == Verdict(False)
    assert verdict(status("ready", "ready", frontends=("ready",))) == Verdict(True)


def test_a_death_before_that_is_the_end_and_says_why():
    reply = status("starting", "ready", deaths=1, note="restarting after: instance i0: no memory", frontends=("ready",))
    assert verdict(reply) == Verdict(True, "instance i0 did not start: no memory")


def test_lost_frontends_and_lost_patience_are_the_end():
    assert verdict(status("starting"), frontends_error="frontends: x") == Verdict(True, "frontends: x")
    late = verdict(status("ready", "starting"), waited_s=101.0)
    assert late.done and "1 of 2 instances and 0 of 1 frontends are ready after 100 s" in late.error


def test_each_instance_has_one_line():
    lines = progress_lines(status("starting", "ready", note="loading the model"), CONFIG)
    assert set(lines) == {"i0", "i1", "frontends"}
    assert lines["i0"].split() == ["i0", "starting", "loading", "the", "model"]
    assert lines["frontends"] == "frontends  0 of 1 serving"


def test_the_first_moment_that_a_request_would_be_answered_is_told():
    assert "first" not in progress_lines(status("ready", "starting"), CONFIG)
    assert "first" not in progress_lines(status("starting", "starting", frontends=("ready",)), CONFIG)
    assert "answering at http://" in progress_lines(status("ready", "starting", frontends=("ready",)), CONFIG)["first"]
