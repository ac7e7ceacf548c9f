import stat
import sys
from pathlib import Path

import pytest
import yaml

from shoal.bench.under_test import PlainServer, ShoalUnderTest, Status, bench_config
from shoal.proto.config import parse_config
from shoal.proto.errors import StartFailed, Unavailable

SHOAL = f"""#!{sys.executable}
import json, sys
act = sys.argv[1]
if act == "up":
    config = open(sys.argv[3]).read()
    sys.exit("Error: no room" if "full" in config else 0)
if act == "status":
    print("a line of no concern")
    instance = {{"id": "i0", "role": "mixed", "state": "ready", "pid": 7, "note": "", "step_ms": 1.5}}
    frontend = {{"id": "f0", "http": "127.0.0.1:8000", "pid": 8, "state": "ready"}}
    print(json.dumps({{"instances": [instance], "frontends": [frontend]}}))
"""


@pytest.fixture
def program(tmp_path) -> Path:
    path = tmp_path / "shoal"
    path.write_text(SHOAL)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def under_test(program: Path, tmp_path: Path, **config) -> ShoalUnderTest:
    made = ShoalUnderTest(parse_config({"model": "/m", **config}), tmp_path)
    made.program = made.child.argv[0] = str(program)
    return made


def test_a_cluster_is_up_when_status_says_so(program, tmp_path):
    with under_test(program, tmp_path, instances=1) as shoal:
        status = shoal.wait_up(30)
    assert status.frontends[0].url == "http://127.0.0.1:8000"
    assert (status.ready()[0].pid, status.ready()[0].step_ms) == (7, 1.5)
    written = yaml.safe_load((tmp_path / "cluster.yaml").read_text())
    assert written == {"model": "/m", "instances": 1}


def test_a_start_that_fails_says_why(program, tmp_path):
    with under_test(program, tmp_path, served_model_name="full") as shoal, pytest.raises(StartFailed, match="no room"):
        shoal.wait_up(30)


def test_too_few_instances_in_time_is_a_failed_start(program, tmp_path):
    with under_test(program, tmp_path, instances=2) as shoal, pytest.raises(StartFailed, match="not up after"):
        shoal.wait_up(1)


def test_a_status_that_cannot_be_read_is_unavailable(program, tmp_path):
    program.write_text(f"#!{sys.executable}\nprint('no json')\n")
    with under_test(program, tmp_path) as shoal, pytest.raises(Unavailable):
        shoal.status()


def test_only_ready_instances_count():
    assert not Status().is_up(0)


def test_plain_gets_the_engine_flags_of_the_cluster(tmp_path):
    plain = PlainServer(bench_config("/some/model", instances=1), tmp_path)
    flags = " ".join(plain.child.argv)
    assert "--model /some/model --served-model-name bench --dtype float32 --block-size 32" in flags
    assert plain.child.environment["VLLM_ENABLE_V1_MULTIPROCESSING"] == "1"
