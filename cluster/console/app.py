"""`/console`: a live picture of the cluster, in front of the API's application. Plain files and one stream of events.

Page and files need no key: they are the same for everybody. What they show does, where the cluster has keys; and an act
always does. The key of a person comes in the Authorization header, which no other site's page can send, and is judged
by the controller.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs

import grpc

from shoal.cluster.console.acts import Acts, parse_act
from shoal.cluster.console.gallery import Gallery
from shoal.cluster.console.words import story_tree
from shoal.cluster.controller_client import CALL_S
from shoal.cluster.http_body import Receive
from shoal.cluster.http_edge import Application, Scope, Send, send_error
from shoal.instance.auth import token_metadata
from shoal.instance.inner_tls import PLAIN, InnerTls
from shoal.proto.errors import InvalidArgument, NotFound, ShoalError, Unauthenticated
from shoal.proto.v1 import controller_pb2 as pb
from shoal.proto.v1 import controller_pb2_grpc as rpc

ROOT = "/console"
FILES = {
    ROOT: ("index.html", "text/html; charset=utf-8"),
    f"{ROOT}/console.css": ("console.css", "text/css; charset=utf-8"),
    f"{ROOT}/console.js": ("console.js", "text/javascript; charset=utf-8"),
    f"{ROOT}/tank.js": ("tank.js", "text/javascript; charset=utf-8"),
    f"{ROOT}/icon.svg": ("icon.svg", "image/svg+xml"),
}
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
POLICY += "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
HEADERS = [
    (b"cache-control", b"no-store"),
    (b"content-security-policy", POLICY.encode()),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]
BODY_BYTES = 4096


class Console:
    """Everything outside /console is `app`'s. `needs_key`: of whoever only looks."""

    def __init__(
        self, app: Application, gallery: Gallery, acts: Acts, token: str, *, needs_key: bool, tls: InnerTls = PLAIN
    ) -> None:
        self.app, self.gallery, self.acts = app, gallery, acts
        self._token, self._needs_key, self._tls = token, needs_key, tls
        page = files("shoal.cluster.console") / "page"
        self._files = {path: ((page / name).read_bytes(), kind) for path, (name, kind) in FILES.items()}
        self._routes: dict[tuple[str, str], Callable[[Scope, Receive, Send], Any]] = {
            ("GET", f"{ROOT}/events"): self._events,
            ("GET", f"{ROOT}/explain"): self._explain,
            ("POST", f"{ROOT}/act"): self._act,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or not (path == ROOT or path.startswith(f"{ROOT}/")):
            return await self.app(scope, receive, send)
        try:
            if scope["method"] == "GET" and path in self._files:
                return await _answer(send, *self._files[path])
            if (route := self._routes.get((scope["method"], path))) is None:
                raise NotFound(f"{scope['method']} {path[:100]}: no such route")
            await route(scope, receive, send)
        except ShoalError as exc:
            await send_error(send, exc)

    async def _admit(self, scope: Scope) -> None:
        if self._needs_key:
            await self.acts.check(_key(scope))

    async def _events(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._admit(scope)
        tasks = [asyncio.create_task(_send_all(self.gallery.events(), send)), asyncio.create_task(_gone(receive))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _explain(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Where it was placed and why, and its moves: whichever frontend remembers it."""
        await self._admit(scope)
        (request_id,) = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("request", [""])[:1]
        if not request_id:
            raise InvalidArgument("request", limit="the id of a request", given=request_id)
        frontends = await self.gallery.frontends()
        told = await asyncio.gather(*(self._story(one.inner, request_id) for one in frontends))
        stories = story_tree(one for some in told for one in some if one.request_id == request_id)
        if not stories:
            raise NotFound(f"request {request_id[:100]}: no frontend remembers it")
        await _answer(send, json.dumps(stories[0]).encode(), "application/json")

    async def _story(self, address: str, request_id: str) -> list[pb.RequestStory]:
        try:
            async with self._tls.aio_channel(address, (("grpc.enable_http_proxy", 0),)) as channel:
                ask = pb.StoryRequest(request_id=request_id)
                metadata = token_metadata(self._token)
                told = await rpc.FrontendStub(channel).Story(ask, timeout=CALL_S, metadata=metadata)
                return list(told.requests)
        except grpc.aio.AioRpcError:  # it is going, and what it knew with it
            return []

    async def _act(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = _key(scope)
        act, request = parse_act(await _body(receive))
        words = await self.acts.act(act, request, key)
        await _answer(send, json.dumps({"words": words}).encode(), "application/json")


def _key(scope: Scope) -> str:
    """Raises Unauthenticated where there is none, or none that a header may hold further on."""
    given = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
    scheme, _, key = given.partition(" ")
    if scheme.lower() != "bearer" or not key.strip() or not (key.isascii() and key.isprintable()):
        raise Unauthenticated("authorization: must be 'Bearer KEY' with an admin key of this cluster")
    return str(key.strip())


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more and len(body) <= BODY_BYTES:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    if len(body) > BODY_BYTES:
        raise InvalidArgument("body", limit=f"at most {BODY_BYTES} bytes", given=f"{len(body)} bytes or more")
    return body


async def _send_all(events: AsyncGenerator[bytes, None], send: Send) -> None:
    async with aclosing(events):
        await _begin(send, "text/event-stream")
        async for news in events:
            await send({"type": "http.response.body", "body": news, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _begin(send: Send, kind: str) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind.encode()), *HEADERS]})


async def _answer(send: Send, body: bytes, kind: str) -> None:
    await _begin(send, kind)
    await send({"type": "http.response.body", "body": body})


__all__ = ["FILES", "Console"]
