"""The head of a cluster: the one Ray driver. Starts Ray, controller and frontends, judges the start, takes all down.

`python -m shoal.cluster.head RUN_DIR RUN_ID RAY_DIR`, started by the supervisor, which owns everything that must
survive this process. It speaks in JSON lines on stdout: {"step"}, {"controller"}, {"phase", "error"}. SIGTERM ends it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from types import FrameType

import ray

from shoal.cluster import reaper
from shoal.cluster.controller import one_line
from shoal.cluster.controller_actor import create_controller
from shoal.cluster.controller_client import ControllerClient
from shoal.cluster.frontends import deploy_error, deploy_frontends, shut_frontends
from shoal.cluster.ports import free_port
from shoal.cluster.progress import Verdict, judge
from shoal.cluster.rundir import SUPERVISOR_PID, RunDir
from shoal.instance.inner_tls import InnerTls
from shoal.proto.config import ClusterConfig, load_config
from shoal.proto.errors import ShoalError, StartFailed

POLL_S = 0.2
DEPLOY_CHECK_S = 2.0
CONTROLLER_S = 90.0
RAY_TRIES = 3
CLOSE_S = 12.0
OBJECT_STORE_BYTES = 200 << 20  # membership and logs only: tokens and KV never travel in Ray objects


class Stopped(Exception):
    """SIGTERM came."""


def say(**words: str) -> None:
    print(json.dumps(words), flush=True)


def gpu_share(config: ClusterConfig, gpus: float) -> float:
    """GPUs that Ray counts per instance. Small models may share one."""
    if config.engine.kind == "fake" or gpus == 0:
        return 0.0
    processes = config.instances + config.spares
    if processes * config.engine.tensor_parallel_size <= gpus:
        return float(config.engine.tensor_parallel_size)
    if config.engine.tensor_parallel_size > 1:
        needed = processes * config.engine.tensor_parallel_size
        raise StartFailed(
            f"instances: {config.instances} and {config.spares} spares need {needed} GPUs, found {gpus:g}"
        )
    return int(gpus / processes * 10_000) / 10_000


def start_ray(config: ClusterConfig, temp_dir: str) -> None:
    """Token authentication, loopback and priorities come from the environment that the supervisor gave us."""
    for attempt in range(RAY_TRIES):
        try:
            return _init_ray(config, temp_dir)
        except Exception as exc:  # Ray raises it bare: its own wait of 30 s is too short for a busy machine
            if "timed out during startup" not in str(exc) or attempt + 1 == RAY_TRIES:
                raise StartFailed(f"Ray did not start: {one_line(exc)}") from exc
            print(f"Ray did not start, once more: {exc}", file=sys.stderr, flush=True)
            ray.shutdown()


def _init_ray(config: ClusterConfig, temp_dir: str) -> None:
    ray.init(
        address="local",
        namespace="shoal",
        num_cpus=max(os.cpu_count() or 1, config.frontends + 1),
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        object_store_memory=OBJECT_STORE_BYTES,
        _node_ip_address="127.0.0.1",
        _temp_dir=temp_dir,
    )


class Head:
    def __init__(self, run: RunDir, run_id: str, ray_dir: Path, config: ClusterConfig) -> None:
        self.run, self.run_id, self.ray_dir, self.config = run, run_id, ray_dir, config
        self.controller: ray.actor.ActorHandle | None = None
        self.frontends_error = ""
        self.judged = threading.Event()

    def up(self) -> str:
        """Returns why the start failed, or nothing."""
        say(step="starting Ray")
        start_ray(self.config, str(self.ray_dir))
        signal.signal(signal.SIGTERM, _raise_stopped)  # Ray set its own
        say(step="starting the controller")
        address, admin = self._start_controller()
        say(controller=admin, step="starting instances")
        threading.Thread(target=self._deploy, daemon=True).start()
        return self._await_ready(address)

    def _start_controller(self) -> tuple[str, str]:
        """Where its own processes, and where people find it."""
        self.controller = create_controller(
            self.config.model_copy(update={"admin_port": self.config.admin_port or free_port("127.0.0.1")}),
            cluster=self.run.name,
            run_id=self.run_id,
            address=f"127.0.0.1:{free_port('127.0.0.1')}",
            logs=str(self.ray_dir / "session_latest" / "logs"),
            gpus=gpu_share(self.config, ray.cluster_resources().get("GPU", 0.0)),
        )
        asked = [self.controller.where.remote(), self.controller.where_admin.remote()]
        where, admin = ray.get(asked, timeout=CONTROLLER_S)
        return str(where), str(admin)

    def _deploy(self) -> None:
        try:
            deploy_frontends(self.config)
            while not self.frontends_error and not self.judged.wait(DEPLOY_CHECK_S):
                self.frontends_error = (error := deploy_error()) and f"frontends: {error}"
        except Exception as exc:  # a thread's error must reach the one who waits
            self.frontends_error = f"frontends: {one_line(exc)}"

    def _await_ready(self, address: str) -> str:
        began_s = time.monotonic()
        with ControllerClient(address, self.config.token("inner"), tls=InnerTls.of(self.config.tls)) as client:
            while True:
                status = client.status(patience_s=10.0)
                waited_s = time.monotonic() - began_s
                match judge(status, self.config, frontends_error=self.frontends_error, waited_s=waited_s):
                    case Verdict(done=True, error=error):
                        self.judged.set()
                        return error
                time.sleep(POLL_S)

    def down(self) -> None:
        """In order, each step bounded; the supervisor ends what is left."""
        shut_frontends()
        if self.controller is not None:
            try:
                ray.get(self.controller.close.remote(), timeout=CLOSE_S)
                ray.kill(self.controller, no_restart=True)
            except Exception as exc:  # a dead controller must not keep us from going on
                print(f"controller: {one_line(exc)}", file=sys.stderr, flush=True)
        ray.shutdown()


def _raise_stopped(_signal: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Stopped


def _run(head: Head) -> str:
    """Returns why it ended, or nothing if it was asked to."""
    try:
        error = head.up()
        if not error:
            say(phase="up")
            while True:
                signal.pause()
    except Stopped:
        error = ""
    except ShoalError as exc:
        error = str(exc)
    except Exception as exc:
        traceback.print_exc()
        error = f"{type(exc).__name__}: {one_line(exc)}"
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return error


def main(argv: list[str]) -> int:
    signal.signal(signal.SIGTERM, _raise_stopped)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    reaper.die_with_parent(int(os.environ[SUPERVISOR_PID]))
    run = RunDir(Path(argv[0]))
    head = Head(run, argv[1], Path(argv[2]), load_config(run.config, {}))
    error = _run(head)
    if error:
        say(phase="failed", error=error)
    head.down()
    return 1 if error else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
