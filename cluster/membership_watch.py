"""The frontend's side of membership: watches the controller and keeps one link to every instance that is ready.

When the controller is gone, the last membership stands and serving goes on; the watch is tried again until it comes
back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

import grpc

from shoal.cluster.dispatcher import Dispatcher
from shoal.cluster.instance_words import role_of
from shoal.cluster.link import CHANNEL_OPTIONS, Link, LinkEnd, hello_of
from shoal.cluster.router_desk import wanted_of
from shoal.instance.auth import token_metadata
from shoal.instance.inner_tls import PLAIN, InnerTls
from shoal.proto.errors import ShoalError, Unavailable, VersionMismatch
from shoal.proto.v1 import controller_pb2 as cpb
from shoal.proto.v1 import controller_pb2_grpc as crpc
from shoal.router.view import Standing

log = logging.getLogger(__name__)
RETRY_S = 0.25
TELL_S = 2.0
STANDINGS = {
    "ready": Standing.READY,
    "fenced": Standing.FENCED,
    "hung": Standing.FENCED,
    "draining": Standing.DRAINING,
    "stopping": Standing.DRAINING,
}


class MembershipWatch:
    """Owns the set of known members and the opening of links; the dispatcher owns open ones."""

    def __init__(
        self,
        *,
        controller: Callable[[], str],
        token: str,
        frontend: cpb.FrontendInfo,
        vllm_version: str,
        hash_seed: str,
        dispatcher: Dispatcher,
        tls: InnerTls = PLAIN,
    ) -> None:
        self.controller, self.token, self.tls, self.frontend = controller, token, tls, frontend
        self.hello = hello_of(frontend.id, vllm_version)
        self.hash_seed, self.dispatcher = hash_seed, dispatcher
        self.members: dict[str, cpb.Member] = {}
        self.opening: set[str] = set()
        self.refused: set[tuple[str, int]] = set()  # members that can never be linked: another version
        self.connected = False
        self.stub: crpc.ControllerStub | None = None  # while connected
        self.tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._spawn(self._watch())
        self._spawn(self._keep_linked())

    def _spawn(self, coroutine: object) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(coroutine)  # type: ignore[arg-type]
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError, ShoalError):
                address = await asyncio.to_thread(self.controller)
                async with self.tls.aio_channel(address, CHANNEL_OPTIONS) as channel:
                    request = cpb.WatchRequest(watcher_id=self.frontend.id, frontend=self.frontend)
                    stub = crpc.ControllerStub(channel)
                    stream = stub.Watch(request, metadata=token_metadata(self.token))
                    async for membership in stream:
                        self.connected, self.stub = True, stub
                        self._learn(membership)
            self.connected, self.stub = False, None
            await asyncio.sleep(RETRY_S)

    def _learn(self, membership: cpb.Membership) -> None:
        self.dispatcher.pilot.follow(wanted_of(membership.router))
        self.members = {m.id: m for m in membership.instances}
        for member_id in self.members:
            self._apply_standing(member_id)
        self._link_missing()

    def _apply_standing(self, member_id: str) -> None:
        member = self.members.get(member_id)
        if member is not None and member_id in self.dispatcher.links and member.state in STANDINGS:
            self.dispatcher.set_role(member_id, role_of(member.role))
            self.dispatcher.set_standing(member_id, STANDINGS[member.state])

    async def _keep_linked(self) -> None:
        while True:
            await asyncio.sleep(RETRY_S)
            self._link_missing()
            if self.dispatcher.pilot.tripped and self.stub is not None:
                await self._tell_trip(self.stub)

    async def _tell_trip(self, stub: crpc.ControllerStub) -> None:
        """Weights were rolled back here: the other frontends should not have to find out by themselves."""
        pilot = self.dispatcher.pilot
        act = cpb.RouterAct(act="rollback", why=f"{self.frontend.id}: {pilot.tripped}", serial=pilot.wanted.serial)
        with contextlib.suppress(grpc.aio.AioRpcError):  # tried again as long as it is not heard
            await stub.Router(act, metadata=token_metadata(self.token), timeout=TELL_S)
            pilot.tripped = ""

    def _link_missing(self) -> None:
        for member in self.members.values():
            life = (member.id, member.incarnation)
            if (
                member.state == "ready"
                and member.id not in self.dispatcher.links
                and member.id not in self.opening | {i for i, n in self.refused if (i, n) == life}
            ):
                self.opening.add(member.id)
                self._spawn(self._open(member))

    async def _open(self, member: cpb.Member) -> None:
        link = Link(member.address, self.token, self.hello, self.dispatcher.on_frame, self._on_end, self.tls)
        try:
            welcome = await link.open()
            if welcome.instance_id != member.id:
                raise Unavailable(f"{member.address} is {welcome.instance_id} now")  # a dead one's port was given away
            if welcome.hash_seed not in (self.hash_seed, "fake"):
                raise VersionMismatch(
                    f"{member.id} hashes blocks from another root (PYTHONHASHSEED must be equal everywhere)"
                )
            self.dispatcher.add_link(link, welcome)
            link.start()
            self._apply_standing(member.id)  # it may have changed meanwhile
        except ShoalError as exc:
            log.warning("no link to %s: %s", member.id, exc)
            await link.close()
            if isinstance(exc, VersionMismatch):
                self.refused.add((member.id, member.incarnation))
        finally:
            self.opening.discard(member.id)

    def _on_end(self, link: Link, why: LinkEnd) -> None:
        self.dispatcher.lose_link(link, why)

    async def close(self) -> None:
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


__all__ = ["MembershipWatch"]
