import os
import signal
from pathlib import Path

import pytest

from shoal.bench import hosts
from shoal.bench.hosts import Host
from shoal.bench.processes import process_state
from shoal.cluster.reaper import is_alive
from shoal.proto.config import parse_config
from shoal.proto.errors import StartFailed

ECHO = """
import json, sys
print("a library's chatter", flush=True)
print(json.dumps({"served": sys.argv[1:]}), flush=True)
for line in sys.stdin:
    if line == "die\\n":
        sys.exit("no more room")
    print(json.dumps({"heard": line.strip()}), flush=True)
"""
DEAF = "import json, time\nprint(json.dumps({}), flush=True)\ntime.sleep(60)\n"
WAIT_S = 30.0


def host(folder: Path, code: str, *arguments: str) -> Host:
    (folder / "child_of_test.py").write_text(code)
    return Host("child_of_test", arguments, folder / "log", {"PYTHONPATH": str(folder)})


async def test_a_word_gets_its_answer(tmp_path):
    async with host(tmp_path, ECHO, "a", "b") as child:
        assert await child.said(WAIT_S) == {"served": ["a", "b"]}
        assert await child.ask("one", WAIT_S) == {"heard": "one"}
        assert await child.ask("two", WAIT_S) == {"heard": "two"}


async def test_it_ends_with_its_context(tmp_path):
    async with host(tmp_path, ECHO) as child:
        await child.said(WAIT_S)
    assert child.process.returncode == 0 and not is_alive(child.pid)


async def test_who_does_not_listen_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(hosts, "GRACE_S", 0.1)
    async with host(tmp_path, DEAF) as child:
        await child.said(WAIT_S)
    assert child.process.returncode == -signal.SIGKILL and process_state(child.pid) == ""


async def test_one_that_ended_is_quoted(tmp_path):
    async with host(tmp_path, ECHO) as child:
        await child.said(WAIT_S)
        with pytest.raises(StartFailed, match=r"child_of_test: it ended; its last words: no more room"):
            await child.ask("die", WAIT_S)


async def test_silence_ends(tmp_path):
    async with host(tmp_path, ECHO) as child:
        await child.said(WAIT_S)
        with pytest.raises(StartFailed, match=r"no word from it in 0 s; it wrote nothing"):
            await child.said(0.05)


async def test_fake_instances_of_several_processes_have_names_of_their_own(tmp_path):
    config = parse_config({"engine": {"kind": "fake"}}).model_dump_json(exclude={"keys", "secret"})
    async with Host("shoal.bench.instance_host", [config, "token", "2", "6"], tmp_path / "log", {}) as child:
        served = (await child.said(WAIT_S))["instances"]
    assert [one["id"] for one in served] == ["i6", "i7"]
    assert {one["pid"] for one in served} == {child.pid} and child.pid != os.getpid()
