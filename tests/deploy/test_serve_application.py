"""What the chart's RayService asks of Ray, done with a real Ray: one machine plays all pods."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.render import one_of, pod_templates, render
from tests.tools.servers import need_program

SCRIPT = Path(__file__).with_name("ray_of_a_pod.py")


VALUES = {
    "cluster": {"instances": 2, "engine": {"kind": "fake", "max_model_len": 512}},
    "servingEngineSpec": {"instancesPerPod": 2},
    "secrets": {"keys": {"key-of-ada": "ada"}, "secret": "a secret of the test"},
}


def plan_of(tmp_path: Path) -> dict[str, Any]:
    """The rendered RayService, with its files here and its three kinds of pods in one."""
    objects = render(tmp_path, VALUES)
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (tmp_path / "shoal.yaml").write_text(one_of(objects, "ConfigMap")["data"]["shoal.yaml"])
    for name, text in one_of(objects, "Secret")["stringData"].items():
        (secrets / name).write_text(text)
    service = one_of(objects, "RayService")["spec"]
    serve = yaml.safe_load(service["serveConfigV2"])
    here = {"config": str(tmp_path / "shoal.yaml"), "secrets": str(secrets)}
    serve["applications"][0]["args"] |= here
    cluster = service["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    slots = {k: v for group in groups for k, v in json.loads(group["rayStartParams"]["resources"].strip("'")).items()}
    head = {**cluster["headGroupSpec"]["rayStartParams"], "num-cpus": "1", "resources": json.dumps(slots)}
    engine = pod_templates(objects)["engine"]["spec"]["containers"][0]
    environment = {one["name"]: one["value"] for one in engine["env"] if "value" in one}
    environment |= {"HOME": str(tmp_path), "SHOAL_CONFIG": here["config"], "SHOAL_SECRETS": here["secrets"]}
    environment |= {"SHOAL_RUN_ID": "pod-test", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a-token-of-this-test"}
    return {
        "environment": environment,
        "ray_start": ["--head", "--block", *(f"--{name}={value}" for name, value in head.items())],
        "serve": serve,
        "api_key": "key-of-ada",
        "metrics_ports": [9400, 9401, 9402],
        "log": str(tmp_path / "ray.log"),
    }


def play(plan: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Runs the plan in namespaces of its own and returns what was seen there."""
    need_program("unshare")
    need_program("ip")
    apart = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*apart, "true"], capture_output=True).returncode:
        pytest.skip("needs the right to make namespaces (root)")
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    script = f"mount -t tmpfs tmpfs /dev/shm && exec {sys.executable} {SCRIPT} {tmp_path / 'plan.json'}"
    done = subprocess.run([*apart, "sh", "-c", script], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


@pytest.mark.ray
def test_building_the_application_starts_controller_and_instances_where_there_are_slots(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    args = plan.pop("serve")["applications"][0]["args"]
    seen = play({**plan, "args": args, "ray_start": [*plan["ray_start"], "--include-dashboard=false"]}, tmp_path)
    assert seen["built"] == "frontend", seen
    status = json.loads(seen["status"])
    assert [one["state"] for one in status["instances"]] == ["ready", "ready"]
    pages = [status["metrics"], *(one["metrics"] for one in status["instances"])]
    assert {page.rsplit(":", 1)[1] for page in pages} == {"9400/metrics", "9401/metrics", "9402/metrics"}


@pytest.mark.slow  # three nodes on one machine
@pytest.mark.timeout(300)
@pytest.mark.ray
def test_instances_go_where_there_are_slots_and_leave_a_pod_that_ends(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    args = plan.pop("serve")["applications"][0]["args"]
    head = [flag.replace('"shoal_instance": 2', '"shoal_instance": 1') for flag in plan["ray_start"]]
    seen = play({**plan, "args": args, "leave": True, "ray_start": [*head, "--include-dashboard=false"]}, tmp_path)
    assert seen["built"] == "frontend", seen
    at = {who: where.split("//")[-1].split(":")[0] for who, where in seen["before"].items()}
    assert sorted(at.values()) == ["127.0.0.1", "127.0.0.2"], seen
    assert seen["rc"] == 0, seen["leave"]
    [left] = [who for who, address in at.items() if address == "127.0.0.2"]
    assert left not in seen["after"] or seen["after"][left].startswith("starting"), seen
    instances = json.loads(seen["status"])["instances"]
    assert [one["state"] for one in instances] == ["ready", "ready"], seen
    assert {one["metrics"] for one in instances} == {"http://127.0.0.1:9401/metrics", "http://127.0.0.3:9400/metrics"}


@pytest.mark.slow  # imports vLLM in a Ray worker: half a minute and more
@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.timeout(300)
def test_what_the_chart_asks_of_ray_makes_a_cluster_that_answers(tmp_path: Path) -> None:
    seen = play(plan_of(tmp_path), tmp_path)
    assert seen["agent"] == 200 and seen["without_token"] == 401
    assert seen["put"][0] == 200 and seen["health"] == 200, seen
    assert seen["readiness"] == 200
    assert seen["completion"][0] == 200, seen["completion"]
    assert json.loads(seen["completion"][1])["usage"]["completion_tokens"] == 5
    assert seen["without_key"] == 401
    assert [code for code, _ in seen["metrics"]] == [200, 200, 200]
    assert [one["state"] for one in json.loads(seen["status"])["instances"]] == ["ready", "ready"]
