"""The supervisor: the one process that outlives every accident of a cluster and leaves nothing behind when it ends.

`python -m shoal.cluster.supervisor RUN_DIR RUN_ID`, in its own session. Owns the run directory's lock and state, Ray's
folder and, as subreaper of all orphans, the end of every process and /dev/shm name of the run. Knows neither Ray nor
vLLM: those live in the head, its child, so that no crash of theirs takes the undertaker along.
"""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

import msgspec

from shoal.cluster import reaper
from shoal.cluster.environment import cluster_environment
from shoal.cluster.rundir import SUPERVISOR_PID, RunDir, RunState
from shoal.proto.config import load_config

HEAD_MODULE = "shoal.cluster.head"
LOOK_S = 3.0
HEAD_GRACE_S = 25.0
ALREADY_RUNNING = 3


class HeadSays(msgspec.Struct, frozen=True):
    """One JSON line from the head."""

    step: str | None = None
    controller: str | None = None
    phase: str | None = None
    error: str | None = None


class Supervisor:
    def __init__(self, run: RunDir, run_id: str, *, head_module: str = HEAD_MODULE) -> None:
        self.head_module = head_module
        self.run, self.run_id = run, run_id
        config = load_config(run.config, {})
        self.ray_dir = Path(tempfile.mkdtemp(prefix="shoal-"))  # short: unix sockets live below it
        self.environment = cluster_environment(config, run_id=run_id, ray_token=config.token("ray"), base=os.environ)
        self.state = RunState(
            run_id=run_id,
            supervisor_pid=os.getpid(),
            http=config.http_url,
            grpc=f"{config.host}:{config.grpc_port}",
            model=config.model_name,
            started_s=time.time(),
            ray_dir=str(self.ray_dir),
        )
        self.shm = reaper.ShmLedger()
        self.wake_read, self.wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.asked_to_stop = False

    def tell(self, **changes: Any) -> None:
        self.state = msgspec.structs.replace(self.state, **changes)
        self.run.write_state(self.state)

    def supervise(self) -> int:
        self._listen_to_signals()
        self.tell(step="starting")
        head = self._start_head()
        try:
            self._watch(head)
        finally:
            self._end_head(head)
            left = reaper.end_all(self.run_id, root_pid=os.getpid())
            removed = self.shm.remove()
            self._keep_logs()
            print(f"ended; removed from /dev/shm: {sorted(removed)}; still there: {sorted(left)}", file=sys.stderr)
        if self.state.phase == "failed":
            self.tell(step="stopped")
            return 1
        self.run.clear()
        return 0

    def _keep_logs(self) -> None:
        """Ray's logs of the last run stay readable; its sockets and the rest go."""
        kept, logs = self.run.logs / "ray", self.ray_dir / "session_latest" / "logs"
        shutil.rmtree(kept, ignore_errors=True)
        if logs.exists():
            shutil.copytree(logs, kept, symlinks=True, ignore_dangling_symlinks=True)
        shutil.rmtree(self.ray_dir, ignore_errors=True)

    def _listen_to_signals(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # wakes the selector; collected in the loop
        signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)

    def _on_stop(self, *_: object) -> None:
        self.asked_to_stop = True

    def _start_head(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", self.head_module, str(self.run.path), self.run_id, str(self.ray_dir)]
        with (self.run.logs / "head.log").open("wb") as log:
            return subprocess.Popen(
                command,
                env={**self.environment, SUPERVISOR_PID: str(os.getpid())},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
            )

    def _watch(self, head: subprocess.Popen[bytes]) -> None:
        """Until somebody asks us to stop, or the head ends."""
        assert head.stdout is not None
        looked_s = 0.0
        with selectors.DefaultSelector() as selector:
            selector.register(head.stdout, selectors.EVENT_READ)
            selector.register(self.wake_read, selectors.EVENT_READ)
            while not self.asked_to_stop and self.state.phase != "failed":
                ready = {key.fileobj for key, _ in selector.select(timeout=1.0)}
                if self.wake_read in ready:
                    os.read(self.wake_read, 4096)
                if head.stdout in ready and not self._hear(head.stdout):
                    self.tell(phase="failed", error=f"the head ended; see {self.run.logs / 'head.log'}")
                reaper.collect_zombies()
                if time.monotonic() - looked_s > LOOK_S:
                    looked_s = time.monotonic()
                    self._look_at_shm()

    def _look_at_shm(self) -> None:
        self.shm.look(reaper.ours(self.run_id, root_pid=os.getpid()))
        names = tuple(sorted(self.shm.mine()))
        if names != self.state.shm:
            self.tell(shm=names)

    def _hear(self, stdout: IO[bytes]) -> bool:
        """One line. False at the end of the stream. What is not ours (a library's print) goes to the log."""
        line = stdout.readline()
        if not line:
            return False
        try:
            said = msgspec.json.decode(line, type=HeadSays)
        except msgspec.MsgspecError:
            sys.stderr.buffer.write(line)
            return True
        self.tell(**{name: value for name, value in msgspec.structs.asdict(said).items() if value is not None})
        return True

    def _end_head(self, head: subprocess.Popen[bytes]) -> None:
        if self.state.phase != "failed":
            self.tell(phase="stopping", step="stopping")
        reaper.send([head.pid] if reaper.is_alive(head.pid) else [], signal.SIGTERM)
        end_s = time.monotonic() + HEAD_GRACE_S
        while reaper.is_alive(head.pid) and time.monotonic() < end_s:
            reaper.collect_zombies()
            self._look_at_shm()
            time.sleep(0.1)
        if head.stdout is not None:
            head.stdout.close()


def main(argv: list[str]) -> int:
    run, run_id = RunDir(Path(argv[0])), argv[1]
    lock = run.lock()
    if lock is None:
        return ALREADY_RUNNING
    reaper.become_subreaper()
    try:
        return Supervisor(run, run_id).supervise()
    except Exception as exc:
        run.write_state(RunState(run_id=run_id, supervisor_pid=os.getpid(), phase="failed", error=f"supervisor: {exc}"))
        raise


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
