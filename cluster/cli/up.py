"""`shoal up`: checks, starts the supervisor, shows how the start goes, and says how to use what came up.

Returns when the cluster is up or nothing of it is left. Ctrl-C takes everything down again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import uuid

from shoal.cluster.cli.down import clean_up_after, stop_supervisor
from shoal.cluster.cli.flags import overrides
from shoal.cluster.cli.preflight import check
from shoal.cluster.controller_client import ControllerClient, admin_client
from shoal.cluster.progress import progress_lines
from shoal.cluster.rundir import RunDir, RunState, find
from shoal.proto.config import ClusterConfig, load_config
from shoal.proto.errors import StartFailed, Unavailable
from shoal.proto.v1 import controller_pb2 as pb

POLL_S = 0.15
FIRST_WORD_S = 20.0


def up(arguments: argparse.Namespace) -> int:
    run = find(arguments.name)
    config = load_config(arguments.config, overrides(arguments))
    if run.is_running():
        raise StartFailed(f"already running{_where(run.state())}; `shoal status` shows it, `shoal down` ends it")
    if (left := run.state()) is not None:
        clean_up_after(run, left)
    config = check(config)
    run_id = uuid.uuid4().hex
    process = start_supervisor(run, run_id, config)
    try:
        _show_start(run, run_id, config, process)
    except KeyboardInterrupt:
        print("\nstopping ...", file=sys.stderr, flush=True)
        stop_supervisor(run)
        raise
    _say_how_to_use(run, config)
    return 0


def _where(state: RunState | None) -> str:
    return f" at {state.http}" if state and state.http else ""


def start_supervisor(run: RunDir, run_id: str, config: ClusterConfig) -> subprocess.Popen[bytes]:
    run.make()
    secret = config.secret.get_secret_value()
    run.write("config.json", json.dumps({**config.model_dump(mode="json"), "secret": secret}).encode())
    run.write("token", config.token("admin").encode())
    command = [sys.executable, "-m", "shoal.cluster.supervisor", str(run.path), run_id]
    with run.log.open("wb") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def _show_start(run: RunDir, run_id: str, config: ClusterConfig, process: subprocess.Popen[bytes]) -> None:
    """Returns when it is up. Raises StartFailed when it is not and nothing of it runs any more."""
    shown = Shown()
    client: ControllerClient | None = None
    try:
        while True:
            ended = process.poll()
            state = _own_state(run, run_id)
            if state is not None and state.phase == "up":
                return
            if ended is not None:
                raise StartFailed(state.error if state and state.error else f"the supervisor ended; see {run.log}")
            if state is not None and client is None and state.controller:
                client = admin_client(state.controller, config)
            shown.show({"step": state.step} if state and client is None else _lines(client, config))
            time.sleep(POLL_S)
    finally:
        if client is not None:
            client.close()


def _own_state(run: RunDir, run_id: str) -> RunState | None:
    state = run.state()
    return state if state is not None and state.run_id == run_id else None


def _lines(client: ControllerClient | None, config: ClusterConfig) -> dict[str, str]:
    if client is None:
        return {}
    try:
        return progress_lines(client.status(), config)
    except Unavailable:
        return {}


class Shown:
    """What stands on the screen. A line is printed again only when it has changed."""

    def __init__(self) -> None:
        self._last: dict[str, str] = {}
        self._began_s = time.monotonic()

    def show(self, lines: dict[str, str]) -> None:
        for key, line in lines.items():
            if line and self._last.get(key) != line:
                self._last[key] = line
                print(f"{time.monotonic() - self._began_s:6.1f} s  {line}", flush=True)


def _say_how_to_use(run: RunDir, config: ClusterConfig) -> None:
    state = run.state()
    if state is None:
        raise StartFailed(f"it came up and went away; see {run.log}")
    with admin_client(state.controller, config) as client:
        status = client.status(patience_s=5.0)
    print("\n".join(usage_lines(config, status)), flush=True)


def usage_lines(config: ClusterConfig, status: pb.StatusReply) -> list[str]:
    url = config.http_url
    key = ' -H "Authorization: Bearer $SHOAL_API_KEY"' if config.needs_key else ""
    body = json.dumps(
        {"model": config.model_name, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 32}
    )
    pages = (status.metrics, *(f.metrics for f in status.frontends), *(i.metrics for i in status.instances))
    lines = [
        "",
        f"OpenAI URL   {url}/v1",
        f"try          curl {url}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{body}'",
        f"gRPC         {config.host}:{config.grpc_port}",
        *(f"metrics      {one}" for one in pages if one),
        "talk         shoal chat        look         shoal status        end          shoal down",
    ]
    if config.engine.kind == "fake":
        lines.append("note         the fake engine computes nothing: its tokens are noise")
    elif config.model == "tiny":
        lines.append(
            "note         this small model has random weights: its words are noise. Serve a real one with --model"
        )
    return lines


__all__ = ["Shown", "start_supervisor", "up", "usage_lines"]
