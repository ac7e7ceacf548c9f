"""One frontend in front of many instances that all stream at once: how much CPU its picture of them costs, and how old
that picture gets.

The default step leaves room on two cores: at 20 ms frontend, fakes and clients together want three quarters of both.

The frontend is the real one in a process of its own, without Ray; the instances are fake engines, several to a process,
whose every step takes --step-ms of modelled time; clients keep --streams requests per instance going. Frontend, fakes
and clients share the machine's cores: `step_rate_share` says how near the fakes came to the rate that was asked for,
and `cpu_s` who used the cores.

`view_age_ms_p99`: sampled every 10 ms of every instance inside the frontend, the time since its newest report was sent.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm

from shoal.bench.clients import APIS, client_of
from shoal.bench.driver import Client, Run, drive
from shoal.bench.hosts import Host
from shoal.bench.outcome import Outcome
from shoal.bench.record import Record
from shoal.bench.static_controller import StaticController
from shoal.bench.under_test import ENVIRONMENT, MODEL_NAME
from shoal.bench.workload import LoadRequest, PromptMaker
from shoal.instance.tiny_model import ensure_tiny_model
from shoal.proto.config import ClusterConfig, parse_config
from shoal.proto.errors import InvalidArgument, ServerFault, Unavailable
from shoal.proto.v1 import controller_pb2 as cpb

WORD_S = 20.0  # for an answer of the frontend's: its loop may be far behind
VOCABULARY = 256
SETTLE_S = 2.0  # streams run for so long before anything is counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--instances", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=20.0, help="of measuring, after all instances stream")
    parser.add_argument("--rate", type=float, help="engine steps per second and instance, in place of --step-ms")
    parser.add_argument("--step-ms", type=float, default=40.0, help="modelled time of a step, whatever is in it")
    parser.add_argument("--streams", type=int, default=1, help="requests per instance at any time")
    parser.add_argument("--input-tokens", type=int, default=64)
    parser.add_argument("--output-tokens", type=int, default=512)
    parser.add_argument("--api", choices=APIS, default="http")
    parser.add_argument("--per-process", type=int, default=32, help="fake instances that share a process")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="cProfile of the frontend's loop, for pstats")
    parser.add_argument("--start-timeout", type=float, default=200.0)
    parser.add_argument("--seed", type=int, default=0)


def check(args: argparse.Namespace) -> None:
    for name in ("instances", "seconds", "step_ms", "streams", "input_tokens", "output_tokens", "per_process"):
        if getattr(args, name) <= 0:
            raise InvalidArgument(name, limit="above 0", given=getattr(args, name))
    if args.rate is not None and args.rate <= 0:
        raise InvalidArgument("rate", limit="above 0", given=args.rate)


def step_ms_of(args: argparse.Namespace) -> float:
    return 1e3 / args.rate if args.rate else float(args.step_ms)


def fanin_config(args: argparse.Namespace) -> ClusterConfig:
    """Steps take the same time whatever is in them, so that the rate of frames is known."""
    zero = dict.fromkeys(("b_ms", "c_ms", "d_ms", "e_ms"), 0.0)
    return parse_config(
        {
            "model": str(ensure_tiny_model()),
            "served_model_name": MODEL_NAME,
            "instances": args.instances,
            "http_port": 0,  # the frontend's process picks real ones: 64 instances take many meanwhile
            "grpc_port": 0,
            "engine": {"kind": "fake", "dtype": "float32", "max_model_len": 8192},
            "fake": {"a_ms": step_ms_of(args), **zero},
            "admission": {"max_requests": max(1024, 2 * args.instances * args.streams)},
        }
    )


def host_shares(instances: int, per_process: int) -> list[tuple[int, int]]:
    """(first, count) of each process of fake instances."""
    return [(first, min(per_process, instances - first)) for first in range(0, instances, per_process)]


class Fleet:
    """The processes of one run. Owns them for as long as its context lasts."""

    def __init__(self, config: ClusterConfig, folder: Path, *, per_process: int, profile: Path | None) -> None:
        self.config, self.folder, self.per_process, self.profile = config, folder, per_process, profile
        self.token = secrets.token_hex(16)
        self.controller = StaticController()
        self.fakes: list[Host] = []
        self.frontend: Host
        self.addresses: dict[str, Any] = {}

    async def start(self, stack: AsyncExitStack, timeout_s: float) -> None:
        """Raises StartFailed. All of them load at once."""
        config_json = self.config.model_dump_json(exclude={"keys", "secret"})
        for first, count in host_shares(self.config.instances, self.per_process):
            words = [config_json, self.token, str(count), str(first)]
            self.fakes.append(await self._host(stack, "instance_host", words, f"fakes-{first}"))
        stack.push_async_callback(self._stop_controller)
        address = await self.controller.start()
        words = [config_json, self.token, address, *([str(self.profile.absolute())] if self.profile else [])]
        self.frontend = await self._host(stack, "frontend_host", words, "frontend")
        served = [line["instances"] for line in await asyncio.gather(*(fake.said(timeout_s) for fake in self.fakes))]
        self.addresses = await self.frontend.said(timeout_s)
        await self.controller.set_members([_member(one) for instances in served for one in instances])
        await self._linked(timeout_s)

    async def _host(self, stack: AsyncExitStack, module: str, words: Sequence[str], name: str) -> Host:
        host = Host(f"shoal.bench.{module}", words, self.folder / f"{name}.log", ENVIRONMENT)
        return await stack.enter_async_context(host)

    async def _stop_controller(self) -> None:
        if self.controller.server is not None:
            await self.controller.stop()

    async def _linked(self, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        while (links := (await self.frontend.ask("links", WORD_S))["links"]) < self.config.instances:
            if time.monotonic() > deadline_s:
                raise Unavailable(f"the frontend is linked to {links} of {self.config.instances} instances")
            await asyncio.sleep(0.1)

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds used so far: by the frontend, all fakes, and the clients with this whole process."""
        return {
            "frontend": _cpu_s(self.frontend.pid),
            "fakes": sum(_cpu_s(fake.pid) for fake in self.fakes),
            "clients": _cpu_s(None),
        }


def _member(one: dict[str, Any]) -> cpb.Member:
    return cpb.Member(id=one["id"], address=one["address"], state="ready", role="mixed", pid=one["pid"], incarnation=1)


def _cpu_s(pid: int | None) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


@dataclass(frozen=True, slots=True)
class Window:
    """What was measured between two moments; `began_s` and `ended_s` on the records' clock."""

    began_s: float
    ended_s: float
    cpu_s: dict[str, float]
    frontend: dict[str, Any]

    @property
    def seconds(self) -> float:
        return self.ended_s - self.began_s


async def measure(fleet: Fleet, records: Sequence[Record], args: argparse.Namespace) -> Window:
    """Waits until all streams produce, lets them settle, measures."""
    await _all_stream(records, args)
    await asyncio.sleep(SETTLE_S)
    await fleet.frontend.ask("begin", WORD_S)
    before, began_s = fleet.cpu_s(), time.perf_counter()
    with tqdm(total=round(args.seconds), unit="s", file=sys.stderr) as bar:
        while (left_s := began_s + args.seconds - time.perf_counter()) > 0:
            await asyncio.sleep(min(1.0, left_s))
            bar.update(round(time.perf_counter() - began_s) - bar.n)
    ended_s, after = time.perf_counter(), fleet.cpu_s()
    said = await fleet.frontend.ask("end", WORD_S)
    return Window(began_s, ended_s, {name: after[name] - before[name] for name in after}, said)


async def _all_stream(records: Sequence[Record], args: argparse.Namespace) -> None:
    wanted = args.instances * args.streams
    deadline_s = time.perf_counter() + args.start_timeout
    while sum(bool(record.chunk_s) for record in records) < wanted:
        failed = next((record for record in records if record.error_kind), None)
        if failed is not None or time.perf_counter() > deadline_s:
            words = f"{failed.error_kind} {failed.error_text}" if failed else "not all streams began in time"
            raise ServerFault(f"before anything was measured: {words}")
        await asyncio.sleep(0.05)


def plan(args: argparse.Namespace) -> list[LoadRequest]:
    """More than any run can finish: it is the run's end that ends them."""
    most_rounds = 2 + int((args.seconds + args.start_timeout) * 1e3 / (step_ms_of(args) * args.output_tokens))
    count = args.instances * args.streams * most_rounds
    return [LoadRequest(index, 0.0, args.input_tokens, args.output_tokens) for index in range(count)]


class Noting:
    """A client that keeps the records it is given, so that they can be watched while they run."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.records: list[Record] = []

    async def run(self, record: Record) -> None:
        self.records.append(record)
        await self.client.run(record)


def score(args: argparse.Namespace, window: Window, records: Sequence[Record], links: int) -> dict[str, Any]:
    """Pure: the numbers of the result."""
    tokens = sum(
        count
        for record in records
        for at_s, count in zip(record.chunk_s, record.chunk_tokens, strict=True)
        if window.began_s <= at_s < window.ended_s
    )
    asked_steps_per_s = 1e3 / step_ms_of(args)
    said = window.frontend
    steps_per_s = said["frames_with_tokens"] / said["seconds"] / args.instances
    return {
        "cpu_share": window.cpu_s["frontend"] / window.seconds,
        "view_age_ms_p99": said["view_age_ms_p99"],
        "tokens_per_s": tokens / window.seconds,
        "instances": args.instances,
        "streams": args.instances * args.streams,
        "api": args.api,
        "step_ms": step_ms_of(args),
        "steps_per_s_asked": asked_steps_per_s,
        "steps_per_s": steps_per_s,
        "step_rate_share": steps_per_s / asked_steps_per_s,
        "frames_per_s": said["frames"] / said["seconds"],
        "bytes_per_frame": said["frame_bytes"] / max(1, said["frames"]),
        "failed": sum(bool(record.error_kind) and record.error_kind != "interrupted" for record in records),
        "links_lost": links - said["links"],
        "cpu_s": window.cpu_s,
        "seconds": window.seconds,
        "frontend": said,
    }


async def _run(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        fleet = Fleet(fanin_config(args), folder, per_process=args.per_process, profile=args.profile)
        await fleet.start(stack, args.start_timeout)
        where = {name: fleet.addresses[name] for name in APIS}
        client = client_of(args.api, **where, model=MODEL_NAME, prompts=PromptMaker(args.seed, VOCABULARY))
        await stack.enter_async_context(client)
        noting, stop = Noting(client), asyncio.Event()
        width = args.instances * args.streams
        load: asyncio.Task[Run] = asyncio.create_task(
            drive(noting, plan(args), timeout_s=args.start_timeout + 4 * args.seconds, concurrency=width, stop=stop)
        )
        try:
            window = await measure(fleet, noting.records, args)
        finally:
            stop.set()
            run = await load
        return score(args, window, run.records, args.instances)


def run(args: argparse.Namespace) -> Outcome:
    check(args)
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        return Outcome(asyncio.run(_run(args, Path(folder))))


__all__ = ["Window", "add_arguments", "check", "fanin_config", "host_shares", "plan", "run", "score"]
