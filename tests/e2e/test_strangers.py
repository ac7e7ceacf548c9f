"""Strangers at the doors of the running cluster: every RPC and every route without a key, with a wrong one, and with
another tenant's; and which doors there are at all.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest

from shoal.cluster.admin_gate import ACTS
from shoal.cluster.controller_client import ControllerClient, admin_client
from shoal.cluster.http_edge import KEYLESS_ROUTES, OPEN_ROUTES
from shoal.cluster.rundir import RunDir
from shoal.instance.auth import token_metadata
from shoal.proto.config import load_config
from shoal.proto.v1 import inference_pb2 as pb
from shoal.proto.v1 import inference_pb2_grpc as rpc
from tests.e2e.conftest import Cluster
from tests.security.every_rpc import ask, methods_of

# Ray's own processes, its spare workers among them: where they listen depends on the machine.
RAYS = {"dashboard.py", "gcs_server", "log_monitor.py", "monitor.py", "raylet", "ray::DashboardAgent", "ray::IDLE"}
RAYS |= {"ray::RuntimeEnvAgent", "ray::ServeController"}
LISTENS = (psutil.CONN_LISTEN, psutil.CONN_NONE)  # the second: UDP
GOLDEN = Path(__file__).with_name("listeners.json")
WRONG = ((), token_metadata("wrong"), (("authorization", "Bearer wrong"),))


def run_dir(cluster: Cluster) -> RunDir:
    return RunDir(Path(cluster.shoal.environment["XDG_RUNTIME_DIR"]) / "shoal" / "default")


def doors(cluster: Cluster) -> dict[str, tuple[str, str]]:
    """Service and its door -> (address, the token that opens it)."""
    run = run_dir(cluster)
    state, config = run.state(), load_config(run.config, {})
    assert state is not None
    with admin_client(state.controller, config) as client:
        status = client.status(patience_s=5.0)
    inner = config.token("inner")
    return {
        "Controller": (state.controller, config.token("admin")),
        "Instance": (status.instances[0].address, inner),
        "Frontend": (status.frontends[0].inner, inner),
        "Inference": (cluster.grpc, "key-of-ada"),
    }


@pytest.mark.parametrize("service", ["Controller", "Instance", "Frontend", "Inference"])
def test_no_rpc_of_the_running_cluster_answers_a_stranger(cluster: Cluster, service: str) -> None:
    opened = doors(cluster)
    others = [token_metadata(token) for name, (_, token) in opened.items() if token != opened[service][1]]
    with grpc.insecure_channel(opened[service][0]) as channel:
        for method in methods_of(service):
            heard = [ask(channel, service, method, metadata) for metadata in (*WRONG, *others)]
            assert set(heard) == {"UNAUTHENTICATED"}, (method, heard)


def test_nobody_inside_can_act_as_a_person(cluster: Cluster) -> None:
    """Not with the token that instances and frontends have, which is not the secret either."""
    address, admin = doors(cluster)["Controller"]
    config = load_config(run_dir(cluster).config, {})
    assert len({admin, config.token("inner"), config.secret.get_secret_value()}) == 3
    with grpc.insecure_channel(address) as channel:
        for act in ACTS:
            assert ask(channel, "Controller", act, token_metadata(config.token("inner"))) == "UNAUTHENTICATED"
    with ControllerClient(address, admin) as client:
        assert client.status().instances


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}, {"x-api-key": "wrong"}])
def test_no_route_answers_a_stranger(cluster: Cluster, headers: dict[str, str]) -> None:
    for method, path in sorted(OPEN_ROUTES):
        status = httpx.request(method, cluster.url + path, headers=headers, json={}, timeout=10).status_code
        assert (status == 200) if (method, path) in KEYLESS_ROUTES else (status == 401), (method, path)


def test_a_request_belongs_to_its_tenant(cluster: Cluster) -> None:
    """Another tenant can neither end nor resume it, nor learn that it is there."""
    ada, bob = ([("authorization", f"Bearer key-of-{name}")] for name in ("ada", "bob"))
    with grpc.insecure_channel(cluster.grpc) as channel:
        stub = rpc.InferenceStub(channel)
        sampling = pb.SamplingParams(max_tokens=400, ignore_eos=True)
        stream = stub.Generate(pb.GenerateRequest(request_id="mine", text="x", sampling=sampling), metadata=ada)
        next(stream)
        assert not stub.Cancel(pb.CancelRequest(request_id="mine"), metadata=bob, timeout=10).found
        with pytest.raises(grpc.RpcError) as caught:
            next(stub.Resume(pb.ResumeRequest(request_id="mine"), metadata=bob, timeout=10))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        next(stream)
        stream.cancel()
    cluster.await_idle()


def test_the_cluster_listens_where_the_list_says_and_nowhere_else(cluster: Cluster) -> None:
    """`all` is Ray's: its worker in each process, and Serve's in a replica. They listen on all interfaces, whatever Ray
    is told; its token is what guards them. Most of an instance's are of vLLM's process groups.
    """
    assert listeners(cluster) == json.loads(GOLDEN.read_text())
    state = run_dir(cluster).state()
    assert state is not None and state.controller.startswith("127.0.0.1:")


def listeners(cluster: Cluster) -> dict[str, dict[str, int]]:
    """Kind of process -> loopback or all interfaces -> the most ports that one process of it listens on."""
    seen: dict[str, dict[str, int]] = {}
    for pid in cluster.shoal.pids() | _pids_of_the_run(cluster):
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if (kind := _kind(process)) in RAYS:
                continue
            doors = [one for one in process.net_connections() if one.status in LISTENS and not one.raddr]
            ports = {(_where(one), one.type, one.laddr.port) for one in doors}  # one port may have several sockets
            for where, count in Counter(where for where, *_ in ports).items():
                most = seen.setdefault(kind, {})
                most[where] = max(count, most.get(where, 0))
    return seen


def _where(one: Any) -> str:
    """gRPC shows an IPv4 address as one of IPv6."""
    ip = ipaddress.ip_address(one.laddr.ip)
    return "loopback" if (getattr(ip, "ipv4_mapped", None) or ip).is_loopback else "all"


def _kind(process: psutil.Process) -> str:
    """An actor by its class, a script by its file, a module by its name, a program by its own."""
    words = process.cmdline()
    if title := re.match(r"ray::[A-Za-z]+", words[0]):
        return title[0]
    if "-m" in words[:-1]:
        return words[words.index("-m") + 1]
    return next((Path(word).name for word in words[1:4] if word.endswith(".py")), process.name())


def _pids_of_the_run(cluster: Cluster) -> set[int]:
    """All processes under the supervisor, which is nobody's child."""
    state = run_dir(cluster).state()
    assert state is not None
    supervisor = psutil.Process(state.supervisor_pid)
    return {supervisor.pid, *(one.pid for one in supervisor.children(recursive=True))}
