"""A running cluster as a benchmark sees it: its status, asked in this process because a command line takes a second to
answer, and what its processes hold. A benchmark starts one for itself unless it is told the name of one that runs.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from shoal.bench.under_test import READY, ShoalUnderTest, bench_config
from shoal.cluster.controller_client import ControllerClient
from shoal.cluster.rundir import DEFAULT_NAME, RunDir, find
from shoal.proto.config import ClusterConfig
from shoal.proto.errors import Unavailable
from shoal.proto.v1 import controller_pb2 as pb

POLL_S = 0.02
HOLD_S = 0.4  # instances report every 250 ms at the latest: an idle that lasts longer is no old news
OPEN_REQUESTS = "shoal_frontend_open_requests"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    where = parser.add_argument_group("which cluster")
    where.add_argument("--name", help="one that runs, as `shoal up --name` called it (default: start one)")
    where.add_argument("--model", default="tiny", help="of the one to start: 'tiny', a Hugging Face id or a folder")
    where.add_argument("--engine", choices=("vllm", "fake"), default="vllm", help="fake: to try the bench itself")
    where.add_argument("--instances", type=int, default=2)
    where.add_argument("--kv-cache-mib", type=int, default=64, help="small, so that warm-up has touched all of it")
    where.add_argument("--start-timeout", type=float, default=200.0)
    where.add_argument("--key", default="", help="API key")


class ClusterAtHand:
    """Owns a connection to the controller. `close` it."""

    def __init__(self, run: RunDir) -> None:
        state = run.state()
        if state is None or not run.is_running() or not state.controller:
            raise Unavailable(f"cluster {run.name}: not running")
        self.controller = ControllerClient(state.controller, run.token())

    def close(self) -> None:
        self.controller.close()

    def status(self) -> pb.StatusReply:
        """Raises Unavailable."""
        return self.controller.status(patience_s=5.0)

    def idle_since(self, within_s: float) -> float | None:
        """When it became idle, on time.perf_counter; None if it is not after `within_s`."""
        deadline_s = time.perf_counter() + within_s
        since_s: float | None = None
        while (now_s := time.perf_counter()) < deadline_s + HOLD_S:
            if not is_idle(self.status()):
                since_s = None
            elif since_s is None:
                since_s = now_s
            elif now_s - since_s >= HOLD_S:
                return since_s
            time.sleep(POLL_S)
        return None


def is_idle(status: pb.StatusReply) -> bool:
    """Every instance is ready, works on nothing and has all its blocks back."""
    return bool(status.instances) and all(
        one.state == READY and one.running == one.waiting == 0 and one.free_blocks == one.total_blocks
        for one in status.instances
    )


def requests_held(status: pb.StatusReply) -> int:
    """By instances and, apart from them, by frontends: a request may be left in either; the worse of the two."""
    return max(
        sum(one.running + one.waiting for one in status.instances),
        sum(_open_requests(frontend.metrics) for frontend in status.frontends),
    )


def _open_requests(metrics_url: str) -> int:
    try:
        with urllib.request.urlopen(metrics_url, timeout=10) as reply:
            return open_requests(reply.read().decode())
    except (OSError, ValueError) as exc:
        raise Unavailable(f"metrics at {metrics_url}: {exc}") from None


def open_requests(exposition: str) -> int:
    """Requests that a frontend has not ended, from its metrics."""
    lines = [line for line in exposition.splitlines() if line.startswith(OPEN_REQUESTS + "{")]
    if not lines:
        raise ValueError(f"no {OPEN_REQUESTS} in it")
    return round(sum(float(line.rpartition(" ")[2]) for line in lines))


@dataclass(frozen=True, slots=True)
class Footprint:
    pid: int
    rss_bytes: int
    files: int
    threads: int


def footprints(status: pb.StatusReply) -> dict[str, Footprint]:
    """What the process of each instance and frontend holds, by id; one that is gone is left out."""
    found: dict[str, Footprint] = {}
    for one in (*status.instances, *status.frontends):
        with suppress(psutil.Error):
            process = psutil.Process(one.pid)
            found[one.id] = Footprint(one.pid, process.memory_info().rss, process.num_fds(), process.num_threads())
    return found


async def watch_memory(processes: Mapping[str, Footprint], every_s: float, timeline: list[dict[str, float]]) -> None:
    """Until cancelled: appends {"s": seconds since the first, id: MiB}: does growth end?"""
    began_s = time.perf_counter()
    while True:
        row = {"s": round(time.perf_counter() - began_s, 1)}
        for name, one in processes.items():
            with suppress(psutil.Error):
                row[name] = round(psutil.Process(one.pid).memory_info().rss / (1 << 20), 2)
        timeline.append(row)
        await asyncio.sleep(every_s)


def compare(before: Mapping[str, Footprint], after: Mapping[str, Footprint]) -> dict[str, Any]:
    """Pure. `replaced`: whose process is another one now, so that its growth means nothing."""
    rss_before, rss_after = (sum(one.rss_bytes for one in side.values()) for side in (before, after))
    files_before, files_after = (sum(one.files for one in side.values()) for side in (before, after))
    names = sorted(before.keys() | after.keys())
    return {
        "memory_growth_pct": 100 * (rss_after - rss_before) / rss_before if rss_before else None,
        "memory_before_mib": rss_before / (1 << 20),
        "memory_after_mib": rss_after / (1 << 20),
        "files_before": files_before,
        "files_after": files_after,
        "replaced": [name for name in names if _pid(before, name) != _pid(after, name)],
        "processes": {
            name: {when: asdict(side[name]) for when, side in (("before", before), ("after", after)) if name in side}
            for name in names
        },
    }


def _pid(side: Mapping[str, Footprint], name: str) -> int | None:
    return side[name].pid if name in side else None


def own_config(args: argparse.Namespace) -> ClusterConfig:
    """A cache that is mapped but not written yet grows in memory as it fills, which is no leak: so it is small here."""
    config = bench_config(args.model, args.instances, engine=args.engine)
    sizes = {"kv_cache_bytes": args.kv_cache_mib << 20, "max_model_len": 2048}
    return config.model_copy(
        update={
            "engine": config.engine.model_copy(update=sizes),
            "fake": config.fake.model_copy(update={"total_blocks": 2 * args.kv_cache_mib}),
        }
    )


@contextmanager
def cluster_at_hand(args: argparse.Namespace) -> Iterator[ClusterAtHand]:
    """The running one that was named, left as it is; else one of its own, gone afterwards."""
    if args.name:
        yield from _opened(find(args.name))
        return
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        with ShoalUnderTest(own_config(args), Path(folder)) as shoal:
            shoal.wait_up(args.start_timeout)
            runtime = Path(shoal.environment["XDG_RUNTIME_DIR"])
            yield from _opened(RunDir(runtime / "shoal" / DEFAULT_NAME))


def _opened(run: RunDir) -> Iterator[ClusterAtHand]:
    cluster = ClusterAtHand(run)
    try:
        yield cluster
    finally:
        cluster.close()


__all__ = [
    "ClusterAtHand",
    "Footprint",
    "add_arguments",
    "cluster_at_hand",
    "compare",
    "footprints",
    "is_idle",
    "open_requests",
    "own_config",
    "requests_held",
    "watch_memory",
]
