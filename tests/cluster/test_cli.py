"""What the command line promises: every key is a flag, every failure is one line, a start without anything heavy."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from shoal.cluster import reaper
from shoal.cluster.cli.chat import ServerSaid, deltas
from shoal.cluster.cli.flags import keys, overrides
from shoal.cluster.cli.main import MODULES, OF_BENCH, build_parser, main
from shoal.cluster.cli.preflight import check_memory
from shoal.cluster.cli.status import as_table, as_tree
from shoal.cluster.cli.up import usage_lines
from shoal.cluster.rundir import RunState, find
from shoal.proto.config import ClusterConfig, load_config, parse_config
from shoal.proto.errors import StartFailed
from shoal.proto.security import digest_of
from shoal.proto.v1 import controller_pb2 as pb


@pytest.fixture(autouse=True)
def own_run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def config_of(*flags: str) -> ClusterConfig:
    return load_config(None, overrides(build_parser().parse_args(["up", *flags])))


def test_every_key_of_the_configuration_is_a_flag():
    text = build_parser()._subparsers._group_actions[0].choices["up"].format_help()  # type: ignore[union-attr]
    names = {dotted for dotted, _ in keys()}
    assert {"model", "engine.block_size", "admission.max_requests", "limits.body_bytes", "fake.poison_token"} <= names
    assert all("--" + dotted.replace("_", "-") in text for dotted in names)


def test_flags_become_checked_values():
    config = config_of(
        "--instances", "3", "--engine.block-size", "16", "--engine.pin-cores", "true", "--engine.max-model-len", "none"
    )
    assert (config.instances, config.engine.block_size, config.engine.pin_cores) == (3, 16, True)
    assert config.engine.max_model_len is None
    config = config_of(
        "--lora", "a=/x=y", "--lora", "b=/z", "--keys", "k=t", "--engine.extra-args=--seed", "--engine.extra-args=3"
    )
    assert config.lora == {"a": "/x=y", "b": "/z"} and config.keys == {digest_of("k"): "t"}
    assert config.engine.extra_args == ("--seed", "3")


def test_a_flag_wins_over_the_file_and_leaves_its_neighbours(tmp_path: Path):
    file = tmp_path / "c.yaml"
    file.write_text("instances: 4\nengine: {block_size: 64, max_num_seqs: 7}\n")
    arguments = build_parser().parse_args(["up", "--config", str(file), "--engine.block-size", "16"])
    config = load_config(arguments.config, overrides(arguments))
    assert (config.instances, config.engine.block_size, config.engine.max_num_seqs) == (4, 16, 7)


FAULTS = {
    "no such model folder": (["--model", "/nowhere/model"], "model: /nowhere/model is not a model folder"),
    "out of range": (["--instances", "0"], "instances: "),
    "not of the list": (["--policy", "best"], "policy: "),
    "no pair": (["--lora", "a"], "lora: must be NAME=VALUE, given 'a'"),
    "no adapter": (["--lora", "a=/nowhere"], "lora a: /nowhere is not an adapter folder"),
    "no file": (["--config", "/nowhere.yaml"], "config /nowhere.yaml: "),
    "equal ports": (["--http-port", "7", "--grpc-port", "7"], "http_port and grpc_port are both 7"),
}


@pytest.mark.parametrize("flags,line", FAULTS.values(), ids=FAULTS.keys())
def test_a_wrong_start_is_one_line_and_starts_nothing(flags: list[str], line: str, capsys: pytest.CaptureFixture[str]):
    known = ["--engine.kv-cache-bytes", "1"] if "--model" in flags or "--lora" in flags else []
    model = [] if "--model" in flags else ["--model", "some/model"]
    assert main(["up", *model, *known, *flags]) == 1
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1
    assert told.err.startswith("shoal up: ") and line in told.err
    assert find().state() is None and not find().is_running()


def test_a_taken_port_is_one_line(capsys: pytest.CaptureFixture[str]):
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as a frontend of another cluster would
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["up", "--engine.kind", "fake", "--http-port", str(port)]) == 1
    assert f"http_port: 127.0.0.1:{port} cannot be bound" in capsys.readouterr().err


def test_an_unknown_flag_is_named(capsys: pytest.CaptureFixture[str]):
    assert main(["up", "--instance", "3"]) == 2
    assert capsys.readouterr().err == "shoal up: no such flag or key: --instance 3\n"


def test_caches_that_cannot_fit_are_refused_with_both_numbers():
    config = parse_config({"instances": 3, "engine": {"kv_cache_bytes": 2 << 30}})
    with pytest.raises(StartFailed, match=r"3 instances x 2.0 GiB need 6.0 GiB, free are 4.0 GiB"):
        check_memory(config, available_bytes=4 << 30)
    check_memory(config, available_bytes=8 << 30)


def test_a_second_up_says_that_it_is_running(capsys: pytest.CaptureFixture[str]):
    run = find()
    lock = run.lock()
    assert lock is not None
    run.write_state(RunState(run_id="r", supervisor_pid=1, phase="up", http="http://127.0.0.1:8000"))
    with lock:
        assert main(["up", "--engine.kind", "fake"]) == 1
    assert "already running at http://127.0.0.1:8000" in capsys.readouterr().err


@pytest.mark.parametrize("act", [["status"], ["status", "--json"], ["revive"], ["chat"]])
def test_without_a_cluster_each_act_says_so(act: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(act) == 1
    told = capsys.readouterr()
    assert told.out == "" and "not running; `shoal up` starts it" in told.err


def test_down_without_a_cluster_is_not_an_error(capsys: pytest.CaptureFixture[str]):
    assert main(["down"]) == 0
    assert capsys.readouterr().out == "not running\n"


def test_down_ends_what_a_killed_supervisor_left(capsys: pytest.CaptureFixture[str]):
    environment = {reaper.MARK: "an-old-run", "PATH": "/usr/bin:/bin"}
    left = subprocess.Popen(["sleep", "300"], env=environment, start_new_session=True)
    run = find()
    run.make()
    run.write_state(RunState(run_id="an-old-run", supervisor_pid=2**22 - 1))
    assert main(["down"]) == 0
    assert left.wait(10) == -15
    assert "what it had left is gone" in capsys.readouterr().out and run.state() is None


def test_the_command_line_starts_without_anything_heavy():
    code = (
        "import sys; from shoal.cluster.cli import main, up, down, status, chat, preflight;"
        "print([m for m in ('ray', 'vllm', 'torch', 'numpy', 'transformers') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert out.stdout.strip() == "[]"


def _reply() -> pb.StatusReply:
    instance = pb.InstanceStatus(id="i0", role="mixed", state="ready", pid=5, running=1, waiting=2, free_blocks=3)
    instance.total_blocks, instance.step_ms, instance.metrics = 4, 1.23456, "http://127.0.0.1:2/metrics"
    frontend = pb.FrontendInfo(id="f", http="http://127.0.0.1:1", metrics="http://127.0.0.1:3/metrics", state="ready")
    return pb.StatusReply(instances=[instance], frontends=[frontend])


def test_status_as_json_has_the_promised_keys():
    tree: dict[str, Any] = json.loads(json.dumps(as_tree(_reply())))
    promised = {"id", "role", "state", "pid", "running", "waiting", "free_blocks", "total_blocks", "step_ms"}
    assert promised <= set(tree["instances"][0]) and tree["instances"][0]["step_ms"] == 1.235
    assert set(tree["frontends"][0]) == {"id", "http", "grpc", "metrics", "pid", "state"}
    assert as_table(_reply()).splitlines()[1].split()[:3] == ["i0", "mixed", "ready"]
    assert as_table(pb.StatusReply()) == "no instances\n\nno frontends"


def test_up_ends_by_saying_how_to_use_it_and_that_the_tiny_model_speaks_noise():
    text = "\n".join(usage_lines(parse_config({"http_port": 8001, "grpc_port": 50052}), _reply()))
    assert "http://127.0.0.1:8001/v1/chat/completions" in text and "127.0.0.1:50052" in text
    assert "http://127.0.0.1:2/metrics" in text and "http://127.0.0.1:3/metrics" in text and "noise" in text
    assert "noise" not in "\n".join(usage_lines(parse_config({"model": "a/b"}), _reply()))
    assert "Authorization" in "\n".join(usage_lines(parse_config({"keys": {"k": "t"}}), _reply()))


def test_chat_reads_words_out_of_an_event_stream_and_stops_at_an_error():
    stream = io.BytesIO(
        b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n: comment\n'
        b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\ndata: {"choices":[]}\n\ndata: [DONE]\n\n'
    )
    assert list(deltas(stream)) == ["Hi"]
    with pytest.raises(ServerSaid, match="too long"):
        list(deltas(io.BytesIO(b'data: {"error":{"message":"too long"}}\n')))


def test_every_act_has_a_function_of_its_name():
    acts = next(one for one in build_parser()._actions if one.dest == "act").choices
    for act in sorted(set(acts) - set(OF_BENCH)):
        assert callable(getattr(import_module(f"shoal.cluster.cli.{MODULES.get(act, act)}"), act)), act
