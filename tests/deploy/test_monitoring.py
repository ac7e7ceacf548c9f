"""Dashboards and alerts are what the generator writes, and every alert leads to a page that helps."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.deploy.render import ROOT
from tests.tools.servers import need_program

GRAFANA = ROOT / "deploy" / "grafana"
GENERATOR = ROOT / "deploy" / "monitoring"


def test_what_is_checked_in_is_what_make_deploy_writes(tmp_path: Path) -> None:
    pytest.importorskip("grafana_foundation_sdk")
    write = (
        "import sys, pathlib as p, generate as g\nfor n, t in g.files().items(): p.Path(sys.argv[1], n).write_text(t)"
    )
    subprocess.run([sys.executable, "-c", write, str(tmp_path)], cwd=GENERATOR, check=True, timeout=60)
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert {path.name: path.read_text() for path in GRAFANA.iterdir()} == made, "run `make deploy`"


def test_no_expression_hides_missing_data() -> None:
    for path in GRAFANA.iterdir():
        assert "or vector" not in path.read_text() and "or on()" not in path.read_text()


def test_prometheus_takes_the_rules() -> None:
    done = subprocess.run(
        [need_program("promtool"), "check", "rules", str(GRAFANA / "alerts.yaml")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_runbook() -> None:
    headings = {
        line.removeprefix("## ").strip().lower()
        for line in (ROOT / "docs" / "runbooks.md").read_text().splitlines()
        if line.startswith("## ")
    }
    rules = yaml.safe_load((GRAFANA / "alerts.yaml").read_text())["groups"][0]["rules"]
    for rule in rules:
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert page == "docs/runbooks.md" and anchor in headings, rule["alert"]
