"""Renders the chart: with helm where it is installed, else with the small renderer beside this file, built once.

What is missing skips a test by name, or fails it with SHOAL_REQUIRE_SERVERS=1 (as in CI).
"""

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tools.servers import need_program

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "shoal"
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
GO_LIBRARIES = Path("/usr/share/gocode")
RELEASE, NAMESPACE = "rel", "llm"


@functools.cache
def _renderer() -> str:
    go = need_program("go")
    if not (GO_LIBRARIES / "src/github.com/Masterminds/sprig").is_dir():
        pytest.skip("Debian's golang-github-masterminds-sprig-dev is not installed")
    program = Path(tempfile.gettempdir()) / f"shoal-renderer-{os.getuid()}" / "renderer"
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": str(GO_LIBRARIES), "GOFLAGS": ""}
    environment["GOCACHE"] = str(program.parent / "cache")
    source = Path(__file__).with_name("renderer")
    subprocess.run([go, "build", "-o", str(program), "."], cwd=source, env=environment, check=True, timeout=110)
    return str(program)


def render(tmp_path: Path, *values: Path | dict[str, Any]) -> list[dict[str, Any]]:
    """All objects of the release, `values` laid over the defaults in order. Raises where rendering fails."""
    files = []
    for number, one in enumerate(values):
        files.append(one if isinstance(one, Path) else tmp_path / f"values{number}.yaml")
        if isinstance(one, dict):
            files[-1].write_text(yaml.safe_dump(one))
    if helm := shutil.which("helm"):
        flags = [part for file in files for part in ("-f", str(file))]
        command = [helm, "template", RELEASE, str(CHART), "--namespace", NAMESPACE, *flags]
    else:
        command = [_renderer(), str(CHART), RELEASE, NAMESPACE, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def one_of(objects: list[dict[str, Any]], kind: str, name: str = RELEASE) -> dict[str, Any]:
    [found] = [one for one in objects if one["kind"] == kind and one["metadata"]["name"] == name]
    return found


def pod_templates(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Component -> pod template, wherever one stands."""
    cluster = one_of(objects, "RayService")["spec"]["rayClusterConfig"]
    templates = [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    templates += [one["spec"]["template"] for one in objects if one["kind"] == "StatefulSet"]
    return {one["metadata"]["labels"]["app.kubernetes.io/component"]: one for one in templates}


__all__ = ["CHART", "EXAMPLES", "NAMESPACE", "RELEASE", "ROOT", "one_of", "pod_templates", "render"]
