import pstats
import socket
from types import SimpleNamespace

import pytest

from shoal.bench.frontend_host import Answers, ViewSampler, held_ports
from shoal.proto.config import parse_config
from shoal.proto.v1 import instance_pb2 as pb
from shoal.router.contract import InstanceInfo, InstanceLoad, Role
from shoal.router.view import ClusterView


class Dispatcher:
    """As far as the sampler looks: frames, links and the view. Reports are observed at `now_s`."""

    def __init__(self, *names: str) -> None:
        self.view, self.now_s, self.frames = ClusterView(), 0.0, []
        self.links = {name: SimpleNamespace(instance_id=name) for name in names}
        for name in names:
            self.view.join(InstanceInfo(name, Role.MIXED, 32, 100, 4096, 2048, 8))

    def on_frame(self, link, frame):
        self.frames.append(frame)
        if frame.WhichOneof("frame") == "report":
            self.view.observe(link.instance_id, InstanceLoad(free_blocks=100), self.now_s)


@pytest.fixture
def dispatcher() -> Dispatcher:
    return Dispatcher("a", "b")


def report(dispatcher: Dispatcher, name: str, *, sent_s: float, observed_s: float, outputs: bytes = b"") -> None:
    dispatcher.now_s = observed_s
    frame = pb.Down(report=pb.StepReport(sent_s=sent_s, outputs=outputs))
    dispatcher.on_frame(dispatcher.links[name], frame)


def test_a_view_ages_from_when_its_report_was_sent_not_from_when_it_was_read(dispatcher):
    sampler = ViewSampler(dispatcher)
    report(dispatcher, "a", sent_s=10.0, observed_s=12.0)
    report(dispatcher, "b", sent_s=11.5, observed_s=11.6)
    sampler.sample(13.0)
    assert sorted(sampler.view_ages_s) == pytest.approx([1.5, 3.0])
    assert sorted(sampler.observed_ages_s) == pytest.approx([1.0, 1.4])


def test_frames_still_reach_the_dispatcher(dispatcher):
    sampler = ViewSampler(dispatcher)
    report(dispatcher, "a", sent_s=1.0, observed_s=1.0, outputs=b"x")
    dispatcher.on_frame(dispatcher.links["a"], pb.Down(refused=pb.Refused()))
    assert len(dispatcher.frames) == 2
    assert (sampler.frames, sampler.frames_with_tokens) == (1, 1)


def test_a_lost_instance_has_no_age(dispatcher):
    sampler = ViewSampler(dispatcher)
    report(dispatcher, "a", sent_s=1.0, observed_s=1.0)
    del dispatcher.links["a"]
    sampler.sample(2.0)
    assert sampler.view_ages_s == []


def test_words_and_their_answers(dispatcher, tmp_path):
    profile = tmp_path / "profile"
    answers = Answers(ViewSampler(dispatcher), str(profile))
    assert answers.answer("links") == {"links": 2}
    report(dispatcher, "a", sent_s=1.0, observed_s=1.0)
    assert answers.answer("begin") == {}
    assert answers.sampler.frames == 0
    report(dispatcher, "a", sent_s=1.0, observed_s=1.0)
    answers.sampler.sample(1.5)
    said = answers.answer("end")
    assert (said["frames"], said["samples"], said["links"]) == (1, 1, 2)
    assert said["view_age_ms_p99"] == pytest.approx(500)
    assert pstats.Stats(str(profile)).total_calls > 0
    assert "error" in answers.answer("sing")


def test_held_ports_are_nobody_elses_but_may_be_shared():
    with held_ports(parse_config({"model": "/m", "http_port": 0, "grpc_port": 0})) as config:
        assert 0 < config.http_port != config.grpc_port > 0
        with socket.socket() as stranger, pytest.raises(OSError):
            stranger.bind((config.host, config.http_port))
        with socket.socket() as frontend:
            frontend.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            frontend.bind((config.host, config.http_port))
