"""When a cluster that Serve builds has started. What it starts is in tests/deploy/test_serve_application.py."""

import pytest

from shoal.cluster.serve_application import started
from shoal.proto.errors import StartFailed
from shoal.proto.v1 import controller_pb2 as pb


def status(*states: str) -> pb.StatusReply:
    return pb.StatusReply(instances=[pb.InstanceStatus(id=f"i{n}", state=state) for n, state in enumerate(states)])


def test_a_cluster_has_started_when_somebody_answers_and_nobody_is_on_the_way() -> None:
    assert not started(status("starting", "ready"))
    assert not started(status("starting", "dead"))
    assert started(status("ready", "ready"))
    assert started(status("ready", "quarantined"))
    with pytest.raises(StartFailed, match="i0: quarantined"):
        started(status("quarantined", "quarantined"))
