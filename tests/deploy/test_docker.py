"""What can be held of the images without a container engine: pinned bases, the lock, no root, a context that builds."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.deploy.render import ROOT

FILES = sorted((ROOT / "deploy" / "docker").glob("Dockerfile.*"))


@pytest.fixture(params=FILES, ids=lambda path: path.suffix)
def dockerfile(request: pytest.FixtureRequest) -> str:
    path: Path = request.param
    return path.read_text()


def test_every_base_is_pinned_by_a_digest_that_the_builder_gives(dockerfile: str) -> None:
    bases = re.findall(r"^FROM (\S+)", dockerfile, re.M)
    assert len(bases) == 3
    for base in bases:
        [name] = re.findall(r"@\$\{(\w+)\}$", base)
        assert f"ARG {name}\n" in dockerfile, "no default: an unpinned build must fail"


def test_nothing_runs_as_root_and_the_lock_is_used(dockerfile: str) -> None:
    assert re.findall(r"^USER (.*)$", dockerfile, re.M)[-1] == "10001:10001"
    [install] = re.findall(r"^RUN uv pip install .*$", dockerfile, re.M)
    [lock] = re.findall(r"-c (\S+)", install)
    assert (ROOT / lock).is_file()


def test_the_build_context_holds_every_package(tmp_path: Path) -> None:
    """.dockerignore lists what goes in; an install from just that must have all folders that pyproject.toml names."""
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for name in (line.removeprefix("!") for line in ignored if line.startswith("!")):
        source = ROOT / name
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, tmp_path / name, ignore=skip) if source.is_dir() else shutil.copy(source, tmp_path)
    settings = tomllib.loads((tmp_path / "pyproject.toml").read_text())
    for folder in settings["tool"]["setuptools"]["package-dir"].values():
        assert (tmp_path / folder).is_dir(), folder
    build = "import setuptools.build_meta as b, sys; print(b.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr[-1000:]
    [wheel] = tmp_path.glob("shoal-*.whl")
    names = subprocess.run([sys.executable, "-m", "zipfile", "-l", str(wheel)], capture_output=True, text=True).stdout
    assert "shoal/cluster/serve_application.py" in names and "shoal/proto/v1/controller_pb2.py" in names
