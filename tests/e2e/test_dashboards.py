"""Every expression of every dashboard and alert, asked of a real Prometheus that watched the cluster under load."""

import json
import math
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import yaml

from shoal.instance.metrics_page import PAGES
from tests.e2e.conftest import Cluster
from tests.tools.servers import Prometheus

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"
LOAD_S = 8.0
# Shown over fake engines and a pool of its own, where moves can be commanded: tests/deploy/test_pages_of_moves.py.
ELSEWHERE = {"migration", "pool"}
# Nobody was put into quarantine here, so this one's data does not move.
STILL = {"ShoalQuarantined"}


def expressions() -> dict[str, str]:
    """Where it stands -> what Prometheus is asked; an alert's without its limit."""
    found = {}
    for path in sorted(GRAFANA.glob("*.json")):
        if path.stem in ELSEWHERE:
            continue
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                name = f"{path.stem}: {panel['title']} {target['refId']}"
                found[name] = target["expr"].replace("$model", ".*").replace("$__rate_interval", "10s")
    for rule in yaml.safe_load((GRAFANA / "alerts.yaml").read_text())["groups"][0]["rules"]:
        found[rule["alert"]] = rule["expr"].rsplit(" ", 2)[0]
    return found


def ask(cluster: Cluster, number: int, end_s: float) -> None:
    """Requests of two tenants and three classes, most with a shared beginning, some that are not served in time."""
    with httpx.Client(base_url=cluster.url, timeout=60) as client:
        while time.monotonic() < end_s:
            number += 1
            prompt, count = [7] * 200 + [number % 250] * 60, (1, 24, 24)[number % 3]
            headers = {"authorization": f"Bearer key-of-{('ada', 'bob')[number % 2]}"}
            headers["x-shoal-priority"] = str(number // 3 % 3 - 1)
            if number % 5 == 1:  # each thread's first one, too
                prompt, headers["x-shoal-deadline"] = [number % 250] * 3000, "0.0001"
            body = {"model": "tiny", "prompt": prompt, "max_tokens": count, "ignore_eos": True}
            client.post("/v1/completions", json=body, headers=headers)


def kill_an_owner(cluster: Cluster, pids: dict[str, int]) -> None:
    """Ends the process of an instance while it streams an answer; the answer goes on elsewhere."""
    body = {"model": "tiny", "prompt": [5] * 40, "max_tokens": 400, "ignore_eos": True, "stream": True}
    headers = {"authorization": "Bearer key-of-ada"}
    with httpx.stream("POST", f"{cluster.url}/v1/completions", json=body, headers=headers, timeout=60) as reply:
        os.kill(pids[reply.headers["x-shoal-instance"]], signal.SIGKILL)
        assert "data: [DONE]" in list(reply.iter_lines())


@pytest.fixture(scope="module")
def watched(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Prometheus, float, float]]:
    """A Prometheus, and from when to when it saw: quiet, load, an instance's death under load, and its return."""
    pids = {one.id: one.pid for one in cluster.await_idle().ready()}
    first = cluster.config.metrics_port
    targets = [f"127.0.0.1:{port}" for port in range(first, first + min(PAGES, 12))]
    with Prometheus(tmp_path_factory.mktemp("prometheus"), targets) as prometheus:
        start_s = time.time()
        time.sleep(3)
        end_s = time.monotonic() + LOAD_S
        with ThreadPoolExecutor(6) as threads:
            for number in range(6):
                threads.submit(ask, cluster, number * 1000, end_s)
            time.sleep(LOAD_S / 2)
            kill_an_owner(cluster, pids)
        cluster.await_idle()
        time.sleep(2)
        yield prometheus, start_s, time.time()


@pytest.mark.servers
@pytest.mark.vllm
@pytest.mark.timeout(240)
def test_every_panel_and_alert_shows_data_that_moves(
    cluster: Cluster, watched: tuple[Prometheus, float, float]
) -> None:
    prometheus, start_s, end_s = watched
    empty, still = [], []
    for name, expression in expressions().items():
        series = prometheus.series(expression, start_s, end_s)
        values = [[value for value in one if not math.isnan(value)] for one in series]
        if not any(values):
            empty.append(name)
        elif not any(len(set(one)) > 1 for one in values) and name not in STILL:
            still.append(name)
    assert not empty and not still, f"no data: {empty}; data that does not move: {still}"
    assert len(expressions()) > 50
