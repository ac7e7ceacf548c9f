"""A controller that only knows a given membership, for tests and benchmarks that need no Ray: the same Watch as in
production.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from shoal.cluster.controller_service import SERVER_OPTIONS
from shoal.cluster.router_desk import RouterDesk
from shoal.proto.v1 import controller_pb2 as pb
from shoal.proto.v1 import controller_pb2_grpc as rpc


class StaticController(rpc.ControllerServicer):
    """Owns the membership; `set_members` tells all watchers."""

    def __init__(self) -> None:
        self.membership = pb.Membership(version=0)
        self.frontends: dict[str, pb.FrontendInfo] = {}
        self.changed = asyncio.Condition()
        self.desk = RouterDesk()
        self.server: Any = None
        self.address = ""

    async def start(self, host: str = "127.0.0.1") -> str:
        self.server = grpc.aio.server(options=SERVER_OPTIONS)
        rpc.add_ControllerServicer_to_server(self, self.server)
        self.address = f"{host}:{self.server.add_insecure_port(f'{host}:0')}"
        await self.server.start()
        return self.address

    async def set_members(self, members: list[pb.Member]) -> None:
        async with self.changed:
            version = self.membership.version + 1
            self.membership = pb.Membership(version=version, instances=members, router=self.desk.wanted)
            self.changed.notify_all()

    async def Router(self, request: pb.RouterAct, context: Any = None) -> pb.RouterWanted:
        if self.desk.act(request):
            await self.set_members(list(self.membership.instances))
        return self.desk.wanted

    async def Watch(self, request: pb.WatchRequest, context: Any) -> AsyncIterator[pb.Membership]:
        self.frontends[request.frontend.id] = request.frontend
        seen = -1
        while True:
            async with self.changed:
                await self.changed.wait_for(lambda known=seen: self.membership.version != known)
                membership = self.membership
            seen = membership.version
            yield membership

    async def stop(self) -> None:
        await self.server.stop(None)


__all__ = ["StaticController"]
