"""What the controller promises on real Ray, with fake engines in real processes: rejoin, a second life, an end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from shoal.cluster import reaper
from shoal.cluster.controller_client import ControllerClient
from shoal.cluster.environment import cluster_environment
from shoal.cluster.rundir import SUPERVISOR_PID, RunDir
from shoal.proto.config import load_config
from shoal.proto.errors import Unavailable
from shoal.proto.security import derive
from shoal.proto.v1 import controller_pb2 as pb

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

# The real head without frontends (those need vLLM), and without its judgement that a death before them is the end.
HEAD = """
import sys
from shoal.cluster import head
from shoal.cluster.progress import Verdict
head.judge = lambda *_, **__: Verdict(False)
head.deploy_frontends, head.deploy_error, head.shut_frontends = (lambda *_: None), (lambda: ""), (lambda: None)
sys.exit(head.main(sys.argv[1:]))
"""
CONFIG = {"engine": {"kind": "fake"}, "instances": 2, "spares": 1, "secret": "s3cret"}


@dataclass
class Cluster:
    client: ControllerClient
    run_id: str
    head: subprocess.Popen[bytes]
    log: Path

    def until(
        self, true: Callable[[dict[str, pb.InstanceStatus]], bool], patience_s: float = 90.0
    ) -> dict[str, pb.InstanceStatus]:
        end_s = time.monotonic() + patience_s
        while True:
            try:
                by_id = {one.id: one for one in self.client.status(patience_s=5).instances}
            except Unavailable:
                by_id = {}
            if by_id and true(by_id):
                return by_id
            assert time.monotonic() < end_s, (
                f"gave up waiting: {by_id}; head {self.head.poll()}: {self.log.read_text()[-3000:]}"
            )
            time.sleep(0.05)

    def ready(self) -> dict[str, pb.InstanceStatus]:
        return self.until(lambda by_id: all(one.state == "ready" for one in by_id.values()))

    def titled(self, title: str) -> set[int]:
        ours = reaper.ours(self.run_id, root_pid=os.getpid())
        return {pid for pid in ours if _title(pid) == title}

    def spares(self) -> set[int]:
        serving = {one.pid for one in self.client.status(patience_s=20).instances}
        return self.titled("ray::HostedInstance") - serving


def _title(pid: int) -> str:
    try:
        return next(iter(psutil.Process(pid).cmdline()), "")
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def start_head(run: RunDir, run_id: str, ray_dir: str) -> subprocess.Popen[bytes]:
    run.make()
    run.write("config.json", json.dumps(CONFIG).encode())
    config = load_config(run.config, {})
    environment = cluster_environment(config, run_id=run_id, ray_token=uuid.uuid4().hex, base=os.environ)
    environment[SUPERVISOR_PID] = str(os.getpid())
    command = [sys.executable, "-c", HEAD, str(run.path), run_id, ray_dir]
    with run.log.open("wb") as log:
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, bufsize=0)


def controller_of(head: subprocess.Popen[bytes]) -> str:
    assert head.stdout is not None
    for line in head.stdout:
        said = json.loads(line)
        assert said.get("phase") != "failed", said
        if "controller" in said:
            return str(said["controller"])
    pytest.fail("the head ended")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    run, run_id = RunDir(tmp_path_factory.mktemp("run")), uuid.uuid4().hex
    ray_dir = tempfile.mkdtemp(prefix="shoal-")
    head = start_head(run, run_id, ray_dir)
    try:
        with ControllerClient(controller_of(head), derive(str(CONFIG["secret"]), "admin")) as client:
            yield Cluster(client, run_id, head, run.log)
    finally:
        reaper.end_all(run_id, grace_s=0.0)
        head.wait(30)
        assert head.stdout is not None
        head.stdout.close()
        shutil.rmtree(ray_dir, ignore_errors=True)


def test_instances_come_up_in_process_groups_of_their_own_at_normal_priority(cluster: Cluster):
    for one in cluster.ready().values():
        assert os.getpgid(one.pid) == one.pid
        assert os.getpriority(os.PRIO_PROCESS, one.pid) == 0
        assert reaper.is_marked(one.pid, cluster.run_id)


def test_a_killed_instance_is_replaced_by_the_spare_and_its_children_are_reaped(cluster: Cluster):
    old = cluster.ready()["i0"].pid
    cluster.until(lambda _: bool(cluster.spares()))
    os.kill(old, signal.SIGKILL)
    new = cluster.until(lambda by_id: by_id["i0"].state == "ready" and by_id["i0"].pid != old)["i0"]
    assert new.deaths == 1 and not reaper.is_alive(old)
    assert reaper.group_members(old, cluster.run_id) == set()
    assert os.getpriority(os.PRIO_PROCESS, new.pid) == 0


def test_a_frozen_instance_is_fenced_and_comes_back_as_itself(cluster: Cluster):
    frozen = cluster.ready()["i1"].pid
    os.kill(frozen, signal.SIGSTOP)
    try:
        cluster.until(lambda by_id: by_id["i1"].state == "fenced")
    finally:
        os.kill(frozen, signal.SIGCONT)
    assert cluster.ready()["i1"].pid == frozen


def test_a_killed_controller_comes_back_at_its_address_and_knows_its_instances(cluster: Cluster):
    before = {one.id: one.pid for one in cluster.ready().values()}
    (controller,) = cluster.titled("ray::ControllerActor")
    os.kill(controller, signal.SIGKILL)
    cluster.until(lambda by_id: {one.id: one.pid for one in by_id.values()} == before)
    assert {one.id: one.pid for one in cluster.ready().values()} == before
    assert controller not in cluster.titled("ray::ControllerActor")


def test_an_end_in_good_order_leaves_no_process(cluster: Cluster):
    cluster.ready()
    cluster.head.send_signal(signal.SIGTERM)
    assert cluster.head.wait(60) == 0
    assert not cluster.titled("ray::HostedInstance") | cluster.titled("ray::ControllerActor")
