"""Fail-points do nothing until armed, then exactly what was asked, as often as was asked."""

import ast
import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from shoal.proto import failpoints
from shoal.proto.failpoints import FailpointHit, Failpoints, UnknownFailpoint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def points():
    made = Failpoints(("a", "b"))
    yield made
    made.clear()


def test_an_unarmed_place_is_silent(points):
    points.hit("a")
    asyncio.run(points.ahit("a"))


def test_an_unknown_name_or_action_is_an_error_that_says_what_exists(points):
    with pytest.raises(UnknownFailpoint, match="no fail-point 'zz'; there are: a, b"):
        points.arm("zz", "raise")
    for wrong in ("explode", "delay:soon", "pause@x", "pause@-1", "delay:-1", "delay:nan", ""):
        with pytest.raises(UnknownFailpoint, match="action must"):
            points.arm("a", wrong)


def test_raise_at_the_third_time_only(points):
    points.arm("a", "raise@3")
    points.hit("a")
    points.hit("a")
    with pytest.raises(FailpointHit):
        points.hit("a")
    points.hit("a")
    assert points.hits("a") == 4


def test_without_a_count_it_acts_each_time(points):
    points.load("a=raise; b=delay:0")
    for _ in range(2):
        with pytest.raises(FailpointHit):
            points.hit("a")
    points.hit("b")
    assert points.hits("b") == 1


def test_a_paused_thread_goes_on_when_released_and_not_before(points):
    points.arm("a", "pause")
    passed = threading.Event()
    thread = threading.Thread(target=lambda: (points.hit("a"), passed.set()))
    thread.start()
    assert points.wait_reached("a", timeout_s=10)
    assert not passed.is_set()
    points.release("a")
    thread.join(10)
    assert passed.is_set()


async def test_a_paused_task_leaves_the_loop_running(points):
    points.arm("a", "pause")
    task = asyncio.create_task(points.ahit("a"))
    while not points.wait_reached("a", timeout_s=0):
        await asyncio.sleep(0)
    assert not task.done()
    points.release("a")
    await asyncio.wait_for(task, 10)


async def test_clear_lets_the_paused_go(points):
    points.arm("a", "pause")
    task = asyncio.create_task(points.ahit("a"))
    await asyncio.sleep(0)
    points.clear()
    await asyncio.wait_for(task, 10)


async def test_a_delay_is_at_least_as_long_as_asked(points):
    points.load("a=delay:0.05;b=delay:0.05")
    start_s = time.monotonic()
    points.hit("a")
    await points.ahit("b")
    assert time.monotonic() - start_s >= 0.1


def test_exit_ends_the_process_with_the_given_code():
    arm = "from shoal.proto.failpoints import Failpoints; f = Failpoints(['a']); f.load('a=exit:7@2'); "
    code = arm + "f.hit('a'); print('once', flush=True); f.hit('a'); print('lived')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (7, "once\n")


def test_a_wrong_environment_ends_the_process_at_once():
    done = subprocess.run(
        [sys.executable, "-c", "import shoal.proto.failpoints"],
        env={"SHOAL_FAILPOINTS": "no.such.place=raise"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "no fail-point 'no.such.place'" in done.stderr


def _is_place(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    return ast.unparse(node.func) in ("hit", "ahit", "failpoints.hit", "failpoints.ahit")


def _places() -> set[str]:
    found = set()
    for folder in ("router", "instance", "cluster"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in filter(_is_place, ast.walk(ast.parse(path.read_text()))):
                assert isinstance(node.args[0], ast.Constant), f"{path}:{node.lineno}: the name must be a literal"
                found.add(node.args[0].value)
    return found


def test_every_place_in_the_product_is_known_and_every_known_name_is_a_place():
    assert _places() == set(failpoints.KNOWN)
