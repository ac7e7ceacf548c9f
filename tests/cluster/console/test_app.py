"""Which doors the console has, what stands before each, and what goes past it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from shoal.cluster.console.acts import Acts, parse_act
from shoal.cluster.console.app import FILES, Console
from shoal.cluster.console.gallery import Gallery
from shoal.cluster.inner_service import InnerServer
from shoal.cluster.stories import Stories
from shoal.instance.auth import has_token
from shoal.proto.errors import InvalidArgument
from shoal.proto.v1 import controller_pb2 as pb
from shoal.proto.v1 import controller_pb2_grpc as rpc
from shoal.router.contract import Placement
from shoal.router.pilot import Pilot
from shoal.router.profile import build_policy

KEY = "token"  # the fake has one for both
ADMIN = [(b"authorization", f"Bearer {KEY}".encode())]


class FakeController(rpc.ControllerServicer):
    """Acts for whoever has the key; `asked` is what it did."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.frontends: list[pb.FrontendInfo] = []

    async def _judge(self, request: Any, context: Any, reply: Any) -> Any:
        if not has_token(context.invocation_metadata(), KEY):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no")
        self.asked.append(request)
        return reply

    async def Status(self, request: Any, context: Any) -> Any:
        return await self._judge(request, context, pb.StatusReply(frontends=self.frontends))

    async def Scale(self, request: Any, context: Any) -> Any:
        return await self._judge(request, context, pb.ActReply(words="wanted: i0"))

    async def Drain(self, request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.NOT_FOUND, "instance i9: there is none")


@pytest.fixture
async def controller() -> AsyncIterator[tuple[FakeController, str]]:
    server, one = grpc.aio.server(), FakeController()
    rpc.add_ControllerServicer_to_server(one, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield one, f"127.0.0.1:{port}"
    await server.stop(None)


class Door:
    """The console in front of an application that says where it was asked."""

    def __init__(self, address: str, *, needs_key: bool = False) -> None:
        self.gallery = Gallery(lambda: address, "token", Stories())
        self.console = Console(self._behind, self.gallery, Acts(lambda: address), "token", needs_key=needs_key)

    async def _behind(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    async def ask(self, method: str, path: str, headers: Any = (), body: bytes = b"", query: bytes = b"") -> Any:
        """(status, headers, body)."""
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": body}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": method, "path": path, "headers": list(headers), "query_string": query}
        await self.console(scope, receive, send)
        return sent[0]["status"], dict(sent[0]["headers"]), b"".join(one["body"] for one in sent[1:])


@pytest.mark.parametrize("path", sorted(FILES))
async def test_files_are_there_without_a_key_and_may_load_nothing_from_elsewhere(path: str):
    status, headers, body = await Door("", needs_key=True).ask("GET", path)
    assert status == 200 and body
    policy = headers[b"content-security-policy"].decode()
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "http" not in policy
    assert headers[b"x-content-type-options"] == b"nosniff"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/console"),
        ("GET", "/console/"),
        ("GET", "/console/../app.py"),
        ("GET", "/console/act"),
        ("PUT", "/console/act"),
    ],
)
async def test_other_routes_below_the_console_are_closed(method: str, path: str):
    assert (await Door("").ask(method, path))[0] == 404


@pytest.mark.parametrize("path", ["/v1/completions", "/consoles", "/"])
async def test_all_else_is_the_applications(path: str):
    assert await Door("").ask("POST", path) == (299, {}, path.encode())


@pytest.mark.parametrize("headers", [[], [(b"authorization", b"Bearer wrong")], [(b"authorization", b"Basic x")]])
async def test_without_a_right_key_nobody_acts(controller: tuple[FakeController, str], headers: Any):
    one, address = controller
    body = b'{"act": "Scale", "instances": 1}'
    assert (await Door(address).ask("POST", "/console/act", headers, body))[0] == 401
    assert one.asked == []


async def test_with_a_key_an_act_is_done_and_told_in_words(controller: tuple[FakeController, str]):
    one, address = controller
    status, _, body = await Door(address).ask("POST", "/console/act", ADMIN, b'{"act": "Scale", "instances": 3}')
    assert (status, json.loads(body)) == (200, {"words": "wanted: i0"})
    assert one.asked == [pb.ScaleRequest(instances=3)]
    assert (await Door(address).ask("POST", "/console/act", ADMIN, b'{"act": "Drain", "id": "i9"}'))[0] == 404


@pytest.mark.parametrize("path", ["/console/events", "/console/explain"])
async def test_where_the_cluster_has_keys_nobody_looks_without_one(controller: tuple[FakeController, str], path: str):
    door = Door(controller[1], needs_key=True)
    assert (await door.ask("GET", path))[0] == 401
    assert (await door.ask("GET", path, [(b"authorization", b"Bearer key-of-a-tenant")]))[0] == 401


async def test_whichever_frontend_remembers_a_request_explains_it(controller: tuple[FakeController, str]):
    stories = Stories()
    stories.placed("cmpl-1", Placement("i0", 64), 1, 0.0)
    server = await InnerServer.start(stories, Pilot(build_policy("least_work")), "127.0.0.1", "token")
    one, address = controller
    one.frontends = [pb.FrontendInfo(inner="127.0.0.1:1"), pb.FrontendInfo(inner=server.address)]
    door = Door(address)
    try:
        status, _, body = await door.ask("GET", "/console/explain", query=b"request=cmpl-1")
        assert status == 200 and json.loads(body)["stays"][0]["instance"] == "i0"
        assert (await door.ask("GET", "/console/explain", query=b"request=cmpl"))[0] == 404
        assert (await door.ask("GET", "/console/explain"))[0] == 400
    finally:
        await server.stop()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"3",
        b'{"act": "Restart"}',
        b'{"act": ["Scale"]}',
        b'{"act": "Scale", "x": 1}',
        b'{"act": "Scale", "instances": "a"}',
        b'{"act": "Roles", "roles": 3}',
        b'{"act": "Roles", "roles": {"i0": 1}}',
        b"\xff",
        b"[" * 4000,
    ],
)
def test_what_is_no_act_is_refused_in_words(body: bytes):
    with pytest.raises(InvalidArgument, match="body"):
        parse_act(body)
