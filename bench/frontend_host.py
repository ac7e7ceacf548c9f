"""One frontend in one plain process, without Ray or a controller of its own: the same Frontend as in production, with
a sampler of how old its picture of the instances is.

usage: python -m shoal.bench.frontend_host CONFIG_JSON TOKEN CONTROLLER_ADDRESS [PROFILE_FILE [NAME]]
An empty PROFILE_FILE is none; NAME is f0 where it is not given.
Prints one JSON line {"http", "grpc", "metrics", "pid"} once it serves. Then each line on its standard input is answered
by one JSON line: `links`, how many instances it is linked to; `begin`, forget all samples (and profile from here on, if
a file was named); `end`, what was sampled since. It ends when its standard input closes.

An age is sampled of every instance at every tick of SAMPLE_S, on the loop that serves. `view_age`: since the newest
report was sent, by the instance's clock, which must be this machine's. `observed_age`: since it was taken in.
"""

from __future__ import annotations

import asyncio
import contextlib
import cProfile
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from shoal.bench import stats
from shoal.instance.vllm_flags import set_vllm_environment
from shoal.proto.config import ClusterConfig
from shoal.proto.v1 import instance_pb2 as pb

if TYPE_CHECKING:
    from shoal.cluster.dispatcher import Dispatcher
    from shoal.cluster.frontend import Frontend
    from shoal.cluster.link import Link

SAMPLE_S = 0.01


class ViewSampler:
    """Listens in on the frames that links hand to the dispatcher. Install it before the first link opens."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher, self.take = dispatcher, dispatcher.on_frame
        dispatcher.on_frame = self.on_frame  # type: ignore[method-assign]
        self.sent_s: dict[str, float] = {}
        self.begin()

    def begin(self) -> None:
        self.began_s = time.monotonic()
        self.frames = self.frames_with_tokens = self.frame_bytes = 0
        self.lags_s: list[float] = []
        self.view_ages_s: list[float] = []
        self.observed_ages_s: list[float] = []
        self.lateness_s: list[float] = []

    def on_frame(self, link: Link, frame: pb.Down) -> None:
        self.take(link, frame)
        if frame.WhichOneof("frame") == "report":
            self.sent_s[link.instance_id] = frame.report.sent_s
            self.lags_s.append(time.monotonic() - frame.report.sent_s)
            self.frames += 1
            self.frames_with_tokens += bool(frame.report.outputs)
            self.frame_bytes += frame.ByteSize()

    async def run(self) -> None:
        while True:
            due_s = time.monotonic() + SAMPLE_S
            await asyncio.sleep(SAMPLE_S)
            self.lateness_s.append(time.monotonic() - due_s)
            self.sample(time.monotonic())

    def sample(self, now_s: float) -> None:
        observed_s = self.dispatcher.view.snapshot().observed_s
        self.observed_ages_s.extend((now_s - observed_s[observed_s < now_s]).tolist())  # inf: nothing reported yet
        self.view_ages_s.extend(now_s - at_s for name, at_s in self.sent_s.items() if name in self.dispatcher.links)

    def end(self) -> dict[str, Any]:
        """In ms; `lag`: from an instance's sending a report to its being taken in; `lateness`: of the loop's timers."""
        series = {
            "view_age": self.view_ages_s,
            "observed_age": self.observed_ages_s,
            "lag": self.lags_s,
            "lateness": self.lateness_s,
        }
        percentiles = {
            f"{name}_ms_p{percent}": stats.percentile(values, percent) * 1e3
            for name, values in series.items()
            for percent in (50, 99, 100)
        }
        return {
            **percentiles,
            "seconds": time.monotonic() - self.began_s,
            "frames": self.frames,
            "frames_with_tokens": self.frames_with_tokens,
            "frame_bytes": self.frame_bytes,
            "samples": len(self.view_ages_s),
            "links": len(self.dispatcher.links),
        }


class Answers:
    """What each word on the standard input does."""

    def __init__(self, sampler: ViewSampler, profile_file: str) -> None:
        self.sampler, self.profile_file = sampler, profile_file
        self.profile = cProfile.Profile() if profile_file else None

    def answer(self, word: str) -> dict[str, Any]:
        match word:
            case "links":
                return {"links": len(self.sampler.dispatcher.links)}
            case "begin":
                self.sampler.begin()
                if self.profile is not None:
                    self.profile.enable()
                return {}
            case "end":
                if self.profile is not None:
                    self.profile.disable()
                    self.profile.dump_stats(self.profile_file)
                return self.sampler.end()
        return {"error": f"unknown word {word!r:.40}"}


@contextlib.contextmanager
def held_ports(config: ClusterConfig) -> Iterator[ClusterConfig]:
    """Real ports in place of 0, held so that no process that starts meanwhile is given them; the frontend may share."""
    with contextlib.ExitStack() as stack:
        ports = {}
        for name in ("http_port", "grpc_port"):
            holder = stack.enter_context(socket.socket())
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            holder.bind((config.host, getattr(config, name)))
            ports[name] = holder.getsockname()[1]
        yield config.model_copy(update=ports)


async def start(config: ClusterConfig, token: str, controller: str, name: str = "f0") -> Frontend:
    from shoal.cluster.frontend import Frontend, FrontendPlan  # noqa: PLC0415 - imports vLLM, reads its environment

    with held_ports(config) as ported:
        frontend = Frontend(FrontendPlan(ported, name, token, token, lambda: controller))
        await frontend.start()
    return frontend


def _say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


async def host(config: ClusterConfig, token: str, controller: str, profile_file: str, name: str) -> None:
    frontend = await start(config, token, controller, name)
    sampler = ViewSampler(frontend.dispatcher)
    sampling = asyncio.create_task(sampler.run())
    answers = Answers(sampler, profile_file)
    info = frontend.watch.frontend
    _say({"http": info.http, "grpc": info.grpc, "metrics": info.metrics, "pid": os.getpid()})
    while line := await asyncio.to_thread(sys.stdin.readline):
        _say(answers.answer(line.strip()))
    sampling.cancel()
    with contextlib.suppress(Exception):  # the instances may have ended first
        await asyncio.wait_for(frontend.stop(), 3.0)
    os._exit(0)


def main(argv: list[str]) -> None:
    set_vllm_environment()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    config_json, token, controller, profile_file, name = [*argv, *["", "f0"][len(argv) - 3 :]]
    config = ClusterConfig.model_validate_json(config_json)
    asyncio.run(host(config, token, controller, profile_file, name))


if __name__ == "__main__":
    main(sys.argv[1:])


__all__ = ["Answers", "ViewSampler", "held_ports"]
