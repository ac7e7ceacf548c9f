import os
import subprocess
import sys

import pytest

from shoal.bench.lock import bench_lock
from shoal.proto.errors import Overloaded


def test_a_second_benchmark_is_told_who_holds_the_lock(tmp_path):
    with bench_lock("load", folder=tmp_path):
        with (
            pytest.raises(Overloaded, match=f"shoal bench load`, pid {os.getpid()}"),
            bench_lock("overhead", folder=tmp_path),
        ):
            raise AssertionError("both hold it")
    with bench_lock("overhead", folder=tmp_path):
        pass


def test_the_lock_ends_with_its_holder(tmp_path):
    code = (
        "import sys,os; from pathlib import Path; from shoal.bench.lock import bench_lock as l\n"
        "l('x', folder=Path(sys.argv[1])).__enter__(); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=60)
    with bench_lock("load", folder=tmp_path):
        pass


def test_waiting_ends_when_the_holder_lets_go(tmp_path):
    code = (
        "import sys,time; from pathlib import Path; from shoal.bench.lock import bench_lock as l\n"
        "with l('x', folder=Path(sys.argv[1])): print('held', flush=True); time.sleep(0.5)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with bench_lock("load", wait_s=30, folder=tmp_path):
            assert holder.wait(timeout=30) == 0
