"""The generated code that is checked in is what the .proto files generate."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def regenerated(tmp_path_factory):
    out = tmp_path_factory.mktemp("generated")
    environment = {**os.environ, "PYTHON": sys.executable}
    script = ROOT / "proto" / "generate.sh"
    done = subprocess.run([script, out], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return out


def test_the_same_files(regenerated):
    ours = {path.name for path in (ROOT / "proto" / "v1").glob("*_pb2*")}
    assert {path.name for path in regenerated.iterdir()} == ours


def test_the_same_text(regenerated):
    stale = [
        path.name
        for path in regenerated.iterdir()
        if path.read_text() != (ROOT / "proto" / "v1" / path.name).read_text()
    ]
    assert not stale, f"run `make proto`: {stale}"


def test_imports_in_it_use_the_one_name(regenerated):
    for path in regenerated.glob("*_pb2_grpc.py"):
        assert "from shoal.proto.v1 import" in path.read_text()
