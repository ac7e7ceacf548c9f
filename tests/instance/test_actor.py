"""The instance process: it answers or fails with one line, serves, and dies with its engine."""

import asyncio
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from shoal.instance import actor as actor_module
from shoal.instance.actor import ENGINE_DEATH_EXIT, InstanceActor, last_words
from shoal.instance.fake_tokens import reply
from shoal.proto.errors import StartFailed
from tests.instance.peer import TOKEN, Peer, submit

FAKE = {"engine": {"kind": "fake"}, "fake": {"a_ms": 0.1, "vocabulary": 256, "poison_token": 666}}


def actor(monkeypatch: pytest.MonkeyPatch, **tree: Any) -> InstanceActor:
    """In this process, which must not become the leader of a group of its own."""
    monkeypatch.setattr(actor_module, "lead_process_group", lambda: None)
    monkeypatch.setattr(actor_module.sys, "setswitchinterval", lambda _: None)
    return InstanceActor(json.dumps({**FAKE, **tree}), TOKEN)


@asynccontextmanager
async def hosted(config: dict[str, Any]) -> AsyncIterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """An instance in a process of its own, as benchmarks host it."""
    command = [sys.executable, "-m", "shoal.bench.instance_host", json.dumps(config), TOKEN, "1"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())["instances"][0]
        finally:
            process.kill()
            process.communicate(timeout=20)


async def test_it_serves_from_start_to_stop_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    one = actor(monkeypatch)
    assert (await one.progress(), one.stage) == ("spare", "spare")
    assert await one.warm() == {"pid": os.getpid()}
    assert await one.progress() == "imported"
    started = await one.start("i7", 1, None)
    assert await one.ping() == {"pid": os.getpid(), "stage": "ready"}
    async with Peer(started["address"]) as peer:
        peer.send(submit(max_tokens=5))
        await peer.until(peer.finished)
        assert peer.welcome.instance_id == "i7"
        assert peer.tokens() == reply([1, 2, 3], 5, 256)
    text = urllib.request.urlopen(started["metrics"], timeout=10).read().decode()
    assert 'engine="i7"' in text
    await one.stop()
    assert one.server is not None
    assert not one.server.stepper.thread.is_alive()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(started["metrics"], timeout=10)


async def test_adapters_of_the_configuration_are_loaded_before_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(
        "shoal.instance.fake_engine.FakeEngine.call", lambda self, method, arguments: calls.append((method, arguments))
    )
    one = actor(monkeypatch)
    one.config = one.config.model_copy(update={"lora": {"a": "/l/a", "b": "/l/b"}})
    started = await one.start("i0", 1, None)
    assert calls == [
        ("add_lora", {"lora_name": "a", "lora_int_id": 1, "lora_path": "/l/a"}),
        ("add_lora", {"lora_name": "b", "lora_int_id": 2, "lora_path": "/l/b"}),
    ]
    async with Peer(started["address"]) as peer:
        await peer.until(lambda: bool(peer.frames))
        assert list(peer.welcome.loras) == ["a", "b"]
    await one.stop()


async def test_a_model_that_is_not_there_fails_the_start_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    one = actor(monkeypatch, fake={"total_blocks": 2}, engine={"kind": "fake", "max_model_len": 9999})
    with pytest.raises(StartFailed, match=r"engine\.max_model_len") as failed:
        await one.start("i0", 1, None)
    assert "\n" not in str(failed.value)


async def test_what_an_engine_raises_on_its_way_up_becomes_one_line_with_the_instances_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build(_config: object) -> None:
        raise RuntimeError("a\nlong\nstory:\n\n  not enough \n memory \n")

    monkeypatch.setattr(actor_module, "build_engine", build)
    with pytest.raises(StartFailed) as failed:
        await actor(monkeypatch).start("i3", 1, None)
    assert str(failed.value) == "instance i3: RuntimeError: story: not enough memory"


async def test_an_address_of_another_machine_fails_the_start_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    one = actor(monkeypatch, host="192.0.2.1")  # a documentation address: nobody has it
    with pytest.raises(StartFailed, match="instance i0") as failed:
        await one.start("i0", 1, None)
    assert "\n" not in str(failed.value)


def test_the_last_words_of_a_validation_error_are_its_own() -> None:
    class Sizes(BaseModel):
        blocks: int

    with pytest.raises(ValidationError) as failed:
        Sizes.model_validate({"blocks": "many"})
    assert "blocks Input should be a valid integer" in last_words(failed.value)
    assert "http" not in last_words(failed.value)
    assert last_words(RuntimeError()) == "no reason given"


async def test_it_leads_its_process_group_so_that_all_it_starts_can_be_ended_with_it() -> None:
    async with hosted(FAKE) as (process, info):
        assert info["pid"] == process.pid == os.getpgid(process.pid)
        assert os.getpgid(0) != process.pid


async def test_a_host_ends_when_its_standard_input_closes() -> None:
    async with hosted(FAKE) as (process, info):
        async with Peer(info["address"]) as peer:
            peer.send(submit(max_tokens=3))
            await peer.until(peer.finished)
            assert peer.welcome.pid == process.pid
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None  # closed already, to whoever ends the process
        assert await asyncio.to_thread(process.wait, 20) == 0


async def test_an_instance_whose_engine_died_does_not_look_alive() -> None:
    async with hosted(FAKE) as (process, info), Peer(info["address"]) as peer:
        await peer.until(lambda: bool(peer.frames))
        peer.send(submit("poison", [666]))
        assert await asyncio.to_thread(process.wait, 20) == 9
        await peer.ended()


def test_a_failing_step_ends_the_process_with_its_own_code_and_the_reason() -> None:
    code = (
        "import asyncio, json, sys\n"
        "from shoal.instance.actor import InstanceActor\n"
        "from shoal.instance.fake_engine import FakeEngine\n"
        "def step(self): raise ValueError('the runner broke')\n"
        "FakeEngine.step = step; FakeEngine.has_work = lambda self: True\n"
        "async def main():\n"
        "    await InstanceActor(sys.argv[1], 't').start('i0', 1, None)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(FAKE)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == ENGINE_DEATH_EXIT
    assert "engine died: ValueError: the runner broke" in done.stderr
