"""What Kubernetes runs in a pod before it ends it: `python -m shoal.cluster.pre_stop frontend|engine SECONDS`.

A frontend's pod waits until its clients have had their answers; no new ones come, for the pod has left its Service. An
engine's pod has its instances emptied by migration and asks for as many again, which Ray then places elsewhere.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable

from shoal.cluster.controller_client import ControllerClient
from shoal.proto.errors import ShoalError
from shoal.proto.v1 import controller_pb2 as pb

POLL_S = 1.0
LEAVE_SERVICE_S = 5.0  # until every load balancer knows
OPEN_REQUESTS = "shoal_frontend_open_requests{"


def open_requests(page: str) -> float:
    return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(OPEN_REQUESTS))


def read_page(url: str) -> str:
    """Empty where nobody answers: a frontend that is gone has no clients."""
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return str(reply.read().decode())
    except OSError:
        return ""


def await_true(done: Callable[[], bool], wait_s: float, poll_s: float = POLL_S) -> bool:
    end_s = time.monotonic() + wait_s
    while not done():
        if time.monotonic() > end_s:
            return False
        time.sleep(poll_s)
    return True


def instances_at(reply: pb.StatusReply, address: str) -> list[str]:
    return [one.id for one in reply.instances if one.address.rsplit(":", 1)[0] == address]


def empty(client: ControllerClient, address: str, wait_s: float, poll_s: float = POLL_S) -> bool:
    """Drains the instances that listen there and asks for as many again. False: somebody else must carry on.

    An instance that is the last of all cannot be emptied: nobody is there to take its requests.
    """
    drained = []
    for one in instances_at(client.status(patience_s=wait_s), address):
        try:
            client.drain(one)
            drained.append(one)
        except ShoalError as exc:
            print(f"{one} is not drained: {exc}", file=sys.stderr)
    gone = await_true(lambda: not set(drained) & set(instances_at(client.status(), address)), wait_s, poll_s)
    if drained:
        wanted = [one for one in client.status(patience_s=wait_s).instances if one.state != "draining"]
        client.scale(len(wanted) + len(drained))
    return gone and bool(drained)


def close_node(address: str, wait_s: float) -> None:
    """Ray places nothing here any more. Its command for that is hidden, but it is what its own autoscaler calls."""
    import ray  # noqa: PLC0415 - heavy, and frontends' pods need none of it

    [node] = [one["NodeID"] for one in ray.nodes() if one["Alive"] and one["NodeManagerAddress"] == address]
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", f"--node-id={node}"]
    command += ["--reason=DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message=the pod ends", f"--deadline-remaining-seconds={int(wait_s)}"]
    subprocess.run(command, check=True, timeout=30)


def engine(address: str, wait_s: float) -> bool:
    from shoal.cluster.cli.pod import connect_in_pod  # noqa: PLC0415 - imports Ray

    with connect_in_pod(os.environ) as client:
        close_node(address, wait_s)
        return empty(client, address, wait_s)


def frontend(address: str, wait_s: float) -> bool:
    time.sleep(LEAVE_SERVICE_S)
    return await_true(lambda: not open_requests(read_page(f"http://{address}:9400/metrics")), wait_s)


def main(arguments: list[str]) -> int:
    kind, wait_s = arguments
    act = {"frontend": frontend, "engine": engine}[kind]
    return 0 if act(os.environ["SHOAL_NODE_ADDRESS"], float(wait_s)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
