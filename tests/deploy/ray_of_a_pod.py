"""Does what KubeRay does with a RayService, in namespaces of its own: starts Ray as a pod would, hands Serve its
configuration, asks for completions, and prints what it saw as JSON. Where the plan has no "serve", it only builds the
application, which needs no vLLM; with "leave" on two nodes, one of which it then ends as Kubernetes does.

`unshare --net --pid --fork --kill-child --mount-proc python ray_of_a_pod.py PLAN.json`; nothing outlives it.
"""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

DASHBOARD = "http://127.0.0.1:8265/api/serve/applications/"
AGENT = "http://127.0.0.1:52365/api/local_raylet_healthz"
API = "http://127.0.0.1:8000"
WAIT_S = 100.0


def call(url: str, *, method: str = "GET", body: Any = None, key: str = "") -> tuple[int, str]:
    """Status and text; status 0 where nobody answers."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=20) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as exc:
        return exc.code, exc.read().decode()
    except OSError as exc:
        return 0, str(exc)


def wait_for(url: str, **how: Any) -> tuple[int, str]:
    end_s = time.monotonic() + WAIT_S
    while (reply := call(url, **how))[0] != 200 and time.monotonic() < end_s:
        time.sleep(0.3)
    return reply


def serve(plan: dict[str, Any], token: str) -> dict[str, Any]:
    seen: dict[str, Any] = {"agent": wait_for(AGENT)[0], "without_token": call(DASHBOARD)[0]}
    seen["put"] = wait_for(DASHBOARD, method="PUT", body=plan["serve"], key=token)
    seen["health"] = wait_for(f"{API}/health")[0]
    if seen["health"] != 200:
        seen["applications"] = call(DASHBOARD, key=token)
    body = {"model": "tiny", "prompt": [1, 2, 3], "max_tokens": 5, "ignore_eos": True}
    seen["readiness"] = call(f"{API}/-/healthz")[0]
    seen["completion"] = call(f"{API}/v1/completions", method="POST", body=body, key=plan["api_key"])
    seen["without_key"] = call(f"{API}/v1/completions", method="POST", body=body)[0]
    seen["metrics"] = [call(f"http://127.0.0.1:{port}/metrics") for port in plan["metrics_ports"]]
    return seen


BUILD = """
import sys, json, ray
from shoal.cluster.serve_application import build
ray.init(address="auto", namespace="serve", log_to_driver=False)
print(build(json.loads(sys.argv[1]))._bound_deployment.name)
"""


def build(plan: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-c", BUILD, json.dumps(plan["args"])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S)
    return {"built": done.stdout.strip(), "words": done.stderr}


def add_node(plan: dict[str, Any], address: str, number: int) -> None:
    """One more pod for one instance. Its ports are apart from the others', which share this machine."""
    ports = [f"--dashboard-agent-listen-port={52365 + number}", f"--min-worker-port={20000 + 1000 * number}"]
    ports += [f"--max-worker-port={20999 + 1000 * number}", f"--node-ip-address={address}"]
    start_ray(plan, ["--address=127.0.0.1:6379", "--block", '--resources={"shoal_instance": 1}', *ports])


def end_node(address: str) -> dict[str, Any]:
    """The pod's preStop, and where the instances were before and after."""
    before = addresses()
    command = [sys.executable, "-m", "shoal.cluster.pre_stop", "engine", "60"]
    environment = {**os.environ, "SHOAL_NODE_ADDRESS": address}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=WAIT_S)
    return {"before": before, "after": addresses(), "rc": done.returncode, "leave": done.stderr[-2000:]}


def addresses() -> dict[str, str]:
    return {one["id"]: f"{one['state']} {one['metrics']}" for one in json.loads(status())["instances"]}


def await_ready(count: int) -> None:
    end_s = time.monotonic() + WAIT_S
    while [one.split()[0] for one in addresses().values()] != ["ready"] * count and time.monotonic() < end_s:
        time.sleep(0.5)


def status() -> str:
    done = subprocess.run([f"{sys.prefix}/bin/shoal", "status", "--json"], capture_output=True, text=True, timeout=60)
    return done.stdout or done.stderr


def main(path: str) -> None:
    plan = json.loads(Path(path).read_text())
    os.environ.update(plan["environment"])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    start_ray(plan, plan["ray_start"])
    if "serve" in plan:
        seen = serve(plan, os.environ["RAY_AUTH_TOKEN"])
    elif "leave" not in plan:
        wait_for(AGENT)
        seen = build(plan)
    else:
        wait_for(AGENT)
        add_node(plan, "127.0.0.2", 1)
        seen = build(plan) | end_node("127.0.0.2")
        add_node(plan, "127.0.0.3", 2)
        await_ready(2)
    print(json.dumps(seen | {"status": status()}))


def start_ray(plan: dict[str, Any], flags: list[str]) -> None:
    with open(plan["log"], "ab") as log:
        subprocess.Popen([f"{sys.prefix}/bin/ray", "start", *flags], stdout=log, stderr=log)


if __name__ == "__main__":
    main(sys.argv[1])
