"""The controller's gRPC face: membership as a stream, status, acts of people. Owns the watchers; a slow one skips
versions.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn, TypeAlias

import grpc

from shoal.cluster import membership as m
from shoal.cluster.controller import Controller
from shoal.cluster.picture import PoolGlance, pictures
from shoal.instance.inner_tls import PLAIN, InnerTls
from shoal.proto.errors import NotFound, ShoalError
from shoal.proto.v1 import controller_pb2 as pb
from shoal.proto.v1 import controller_pb2_grpc as rpc

MAX_WATCHERS = 256
MAX_VIEWERS = 64
SERVER_OPTIONS = (
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.keepalive_timeout_ms", 1000),
    ("grpc.http2.ping_timeout_ms", 1000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 500),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 1 << 20),
)
Context: TypeAlias = Any  # grpc's stubs have no generic context


class ControllerService(rpc.ControllerServicer):
    """Asks nobody who he is: the gates of its listeners do (`serve`)."""

    def __init__(self, controller: Controller, metrics: str = "") -> None:
        self._controller, self._metrics = controller, metrics
        self._frontends: dict[str, tuple[int, pb.FrontendInfo]] = {}
        self._watchers = self._viewers = 0
        lives = controller.lives
        self._pools = PoolGlance(lives.pools, lives.token, lives.tls)
        self._streams = 0
        self._version = 1
        self._news = asyncio.Event()
        controller.changed = self._changed

    def _changed(self) -> None:
        self._version += 1
        self._news.set()
        self._news = asyncio.Event()

    async def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.Membership]:
        if self._watchers >= MAX_WATCHERS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"watchers: at most {MAX_WATCHERS}")
        self._watchers += 1
        self._streams += 1
        stream = self._streams
        if request.HasField("frontend"):
            self._frontends[request.watcher_id] = (stream, request.frontend)
        try:
            while True:
                news = self._news
                yield self.membership()
                await news.wait()
        finally:
            self._watchers -= 1
            if self._frontends.get(request.watcher_id, (0,))[0] == stream:
                del self._frontends[request.watcher_id]

    async def Status(self, request: pb.StatusRequest, context: Context) -> pb.StatusReply:
        return self.status()

    def status(self) -> pb.StatusReply:
        controller = self._controller
        return pb.StatusReply(
            instances=map(self._status, controller.slots.values()),
            frontends=[info for _, info in self._frontends.values()],
            moves=controller.planner.in_flight(),
            act=controller.fleet.words,
            metrics=self._metrics,
        )

    async def View(self, request: pb.ViewRequest, context: Context) -> AsyncIterator[pb.Picture]:
        if self._viewers >= MAX_VIEWERS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"viewers: at most {MAX_VIEWERS}")
        self._viewers += 1
        try:
            async for picture in pictures(self.status, self._controller.planner, self._pools):
                yield picture
        finally:
            self._viewers -= 1

    async def Revive(self, request: pb.ReviveRequest, context: Context) -> pb.ReviveReply:
        if request.id and request.id not in self._controller.slots:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"id: no instance {request.id!r}")
        return pb.ReviveReply(ids=self._controller.revive(request.id))

    async def Migrate(self, request: pb.MigrateRequest, context: Context) -> pb.MoveReport:
        try:
            flight = self._controller.planner.begin_by_hand(request.request_id, request.target)
        except ShoalError as exc:
            await _refuse(context, exc)
        await flight.told.wait()  # bounded by the planner
        return flight.report

    async def Scale(self, request: pb.ScaleRequest, context: Context) -> pb.ActReply:
        return await self._act(context, lambda: self._controller.scale(request.instances))

    async def Drain(self, request: pb.DrainRequest, context: Context) -> pb.ActReply:
        return await self._act(context, lambda: self._controller.drain(request.id))

    async def Restart(self, request: pb.RestartRequest, context: Context) -> pb.ActReply:
        return await self._act(context, self._controller.restart)

    async def Roles(self, request: pb.RolesRequest, context: Context) -> pb.ActReply:
        try:
            self._controller.set_roles(request.roles)
        except ShoalError as exc:
            await _refuse(context, exc)
        return pb.ActReply(words=", ".join(f"{slot.id} {self._role(slot)}" for slot in self._controller.slots.values()))

    async def _act(self, context: Context, act: Callable[[], None]) -> pb.ActReply:
        try:
            act()
        except ShoalError as exc:
            await _refuse(context, exc)
        return pb.ActReply(words=f"wanted: {', '.join(self._controller.fleet.wanted)}")

    async def Router(self, request: pb.RouterAct, context: Context) -> pb.RouterWanted:
        try:
            self._controller.steer(request)
        except ShoalError as exc:
            await _refuse(context, exc)
        return self._controller.desk.wanted

    async def Moves(self, request: pb.StoryRequest, context: Context) -> pb.MovesReply:
        return pb.MovesReply(moves=self._controller.planner.moves_of(request.request_id))

    def membership(self) -> pb.Membership:
        members = map(self._member, self._controller.slots.values())
        return pb.Membership(version=self._version, instances=members, router=self._controller.desk.wanted)

    def _member(self, slot: m.Slot) -> pb.Member:
        return pb.Member(
            id=slot.id,
            address=slot.address,
            state=slot.state.value,
            role=self._role(slot),
            pid=slot.pid,
            incarnation=slot.incarnation,
        )

    def _role(self, slot: m.Slot) -> str:
        return self._controller.roles.get(slot.id, "mixed")

    def _status(self, slot: m.Slot) -> pb.InstanceStatus:
        live = self._controller.live.get(slot.id)
        status = pb.InstanceStatus(id=slot.id, role=self._role(slot), state=slot.state.value, note=slot.note)
        status.deaths, status.address = slot.deaths, slot.address
        status.freeness = self._controller.planner.freeness(slot)
        if live is not None:
            load = live.load
            status.pid = live.process.pid
            status.running, status.waiting, status.step_ms = load.running, load.waiting, load.step_ms
            status.free_blocks, status.total_blocks = load.free_blocks, load.total_blocks
            status.metrics = live.served.metrics if live.served else ""
        return status


async def _refuse(context: Context, error: ShoalError) -> NoReturn:
    code = grpc.StatusCode.NOT_FOUND if isinstance(error, NotFound) else grpc.StatusCode.INVALID_ARGUMENT
    await context.abort(code, str(error))
    raise AssertionError("abort raises")


async def serve(
    service: ControllerService, address: str, gate: grpc.aio.ServerInterceptor, tls: InnerTls = PLAIN
) -> tuple[grpc.aio.Server, str]:
    """Raises OSError where the port is taken. Returns the server and the address with its real port."""
    server = grpc.aio.server(options=SERVER_OPTIONS, interceptors=[gate])
    rpc.add_ControllerServicer_to_server(service, server)
    host, port = address.rsplit(":", 1)
    try:
        bound = tls.bind(server, address)
    except RuntimeError as exc:
        raise OSError(f"controller address {address}: {exc}") from None
    await server.start()
    return server, f"{host}:{bound or port}"


__all__ = ["SERVER_OPTIONS", "ControllerService", "serve"]
