"""What a frontend answers to our own people: the story of a request, and how its learned weights do. A listener of its
own, for frontends share the public ports and this one must be asked by name.
"""

from __future__ import annotations

import time
from typing import Any

import grpc

from shoal.cluster.stories import Stay, Stories
from shoal.instance.gate import AsyncGate
from shoal.instance.inner_tls import PLAIN, InnerTls
from shoal.proto.v1 import controller_pb2 as pb
from shoal.proto.v1 import controller_pb2_grpc as rpc
from shoal.router.explain import explain
from shoal.router.pilot import Pilot

MAX_STORIES = 16


class InnerServer(rpc.FrontendServicer):
    """Owns its listener from `start` to `stop`."""

    def __init__(self, stories: Stories, pilot: Pilot, token: str) -> None:
        self._stories, self._pilot = stories, pilot
        self._server: Any = grpc.aio.server(interceptors=[AsyncGate(token)])
        self.address = ""

    @staticmethod
    async def start(stories: Stories, pilot: Pilot, host: str, token: str, tls: InnerTls = PLAIN) -> InnerServer:
        one = InnerServer(stories, pilot, token)
        rpc.add_FrontendServicer_to_server(one, one._server)
        one.address = f"{host}:{tls.bind(one._server, f'{host}:0')}"
        await one._server.start()
        return one

    async def Story(self, request: pb.StoryRequest, context: Any) -> pb.StoryReply:
        now_s = time.monotonic()
        found = list(self._stories.find(request.request_id).items())[-MAX_STORIES:]
        stories = [
            pb.RequestStory(request_id=request_id, stays=[_stay(one, now_s) for one in stays])
            for request_id, stays in found
        ]
        return pb.StoryReply(requests=stories)

    async def Router(self, request: pb.RouterAsk, context: Any) -> pb.RouterReport:
        return report_of(self._pilot)

    async def stop(self) -> None:
        await self._server.stop(None)


def _stay(stay: Stay, now_s: float) -> pb.Stay:
    said = pb.Stay(instance=stay.instance, epoch=stay.epoch, why=stay.why, age_s=now_s - stay.began_s)
    if stay.placement is not None:
        said.cached_tokens, said.policy = stay.placement.cached_tokens, stay.placement.policy
        said.rail = stay.placement.rail
        for row in explain(stay.placement):
            said.terms.add(candidate=row.candidate, scorer=row.scorer, raw=row.raw, weight=row.weight)
    if stay.move is not None:
        said.pause_s, said.sent_bytes, said.stages = stay.move.pause_s or 0.0, stay.move.sent_bytes, stay.move.stages
    return said


def report_of(pilot: Pilot) -> pb.RouterReport:
    rollout, rails = pilot.rollout, pilot.rails
    report = pb.RouterReport(stage=rollout.stage.value, version=rollout.version, why=rollout.why, refused=pilot.refused)
    if rails is not None and rails.holding is not None:
        report.holding = f"{rails.holding.value}: {rails.why}"
    report.counts.update(pilot.counts())
    return report


__all__ = ["InnerServer", "report_of"]
