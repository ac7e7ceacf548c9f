"""The HTTP edge, an ASGI wrapper around vLLM's application: deny by default, keys to tenants, limits, and our errors as
HTTP.

Only the routes of OPEN_ROUTES answer; everything else that vLLM mounts is closed. A request is read whole and judged
before vLLM sees it. The first body byte of its answer is awaited before the response starts, so that a request which
never got a place becomes a 429 or 503 with Retry-After, streaming or not, and so that the answer can name the instance
that gave its first token.
"""

from __future__ import annotations

import json
import math
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from shoal.cluster.body_checks import check_body
from shoal.cluster.client_words import is_offline, program_of
from shoal.cluster.http_body import BodyReader, BodyTooLarge, ClientGone, Message, Receive, replayed
from shoal.cluster.request_context import RequestContext, open_request
from shoal.proto.errors import InvalidArgument, NotFound, ShoalError
from shoal.proto.limits import LimitsConfig
from shoal.router.tenant_limits import TenantLimits

Scope = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Authenticate = Callable[[str | None], str]

OPEN_ROUTES = {
    ("GET", "/health"),
    ("GET", "/ping"),
    ("GET", "/version"),
    ("GET", "/v1/models"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/messages"),
    ("POST", "/v1/messages/count_tokens"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
}
KEYLESS_ROUTES = {("GET", "/health"), ("GET", "/ping")}
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class HttpEdge:
    """Wraps one ASGI application. Owns what is counted of bodies; tenants' accounts are `tenants`'."""

    def __init__(
        self,
        app: Application,
        authenticate: Authenticate,
        limits: LimitsConfig,
        tenants: TenantLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.app, self.authenticate, self.limits = app, authenticate, limits
        self.tenants, self.clock, self.bodies = tenants or TenantLimits(), clock, BodyReader(limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1000})
        try:
            context = self._admit(scope)
            if scope["method"] != "POST":
                return await self._serve(scope, receive, send, context)
            self.tenants.enter(context.tenant, self.clock())
            try:
                return await self._serve(scope, await self._checked(receive), send, context)
            finally:
                self.tenants.leave(context.tenant)
        except ClientGone:
            return None
        except ShoalError as exc:
            return await send_error(send, exc)

    async def _checked(self, receive: Receive) -> Receive:
        body = await self.bodies.read(receive)
        check_body(body, self.limits)
        return replayed(body, receive)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, context: RequestContext) -> None:
        """Raises only what is the application's own fault."""
        _name(scope, context.request_id)
        response = HeldResponse(send, context)
        with open_request(context):
            try:
                await self.app(scope, receive, response.send)
            except Exception:
                if context.error is None:
                    raise
                await response.fail(context.error)  # does nothing where the client has an answer

    def _admit(self, scope: Scope) -> RequestContext:
        """Raises what the client must hear instead of an answer."""
        route = (scope["method"], scope["path"])
        if route not in OPEN_ROUTES:
            raise NotFound(f"{scope['method']} {scope['path'][:100]}: no such route")
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        header_bytes = sum(len(k) + len(v) for k, v in scope["headers"])
        if header_bytes > self.limits.header_bytes:
            raise InvalidArgument("headers", limit=f"at most {self.limits.header_bytes} bytes", given=header_bytes)
        if not REQUEST_ID.fullmatch(headers.get("x-request-id", "-")):  # it travels with every report of the request
            limit = "1 to 128 characters of [A-Za-z0-9._:-]"
            raise InvalidArgument("x-request-id", limit=limit, given=headers["x-request-id"][:40])
        tenant = "" if route in KEYLESS_ROUTES else self.authenticate(headers.get("authorization") or _api_key(headers))
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.limits.body_bytes:
            raise BodyTooLarge(f"body: must be at most {self.limits.body_bytes} bytes, given {length}")
        return RequestContext(
            request_id=uuid.uuid4().hex,
            tenant=tenant,
            priority=int(_number(headers, "x-shoal-priority", -(2**31), 2**31 - 1)),
            deadline_s=_number(headers, "x-shoal-deadline", 0, 86_400),
            program=program_of("x-shoal-program", headers.get("x-shoal-program", "")),
            offline=is_offline("x-shoal-class", headers.get("x-shoal-class", "")),
        )


def _name(scope: Scope, request_id: str) -> None:
    """vLLM builds its ids on this header: what our response header says is then found in each id inside."""
    if not any(key == b"x-request-id" for key, _ in scope["headers"]):
        scope["headers"] = [*scope["headers"], (b"x-request-id", request_id.encode())]


def _api_key(headers: dict[str, str]) -> str | None:
    """Anthropic's clients send their key in a header of their own."""
    return f"Bearer {headers['x-api-key']}" if "x-api-key" in headers else None


def _number(headers: dict[str, str], name: str, least: float, most: float) -> float:
    text = headers.get(name)
    if text is None:
        return 0
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise InvalidArgument(name, limit=f"a number in {least:g}..{most:g}", given=text[:40])
    return value


class HeldResponse:
    """Holds the start of a response until its first body, which may turn out to be an error of ours."""

    def __init__(self, send: Send, context: RequestContext) -> None:
        self._send, self.context = send, context
        self.start: Message | None = None
        self.begun = False
        self.failed = False

    async def send(self, message: Message) -> None:
        if self.failed:
            return
        if message["type"] == "http.response.start":
            self.start = message
            return
        if not self.begun:
            if self.context.error is not None:
                return await self.fail(self.context.error)
            await self._begin()
        await self._send(message)

    async def _begin(self) -> None:
        assert self.start is not None
        self.begun = True
        ours = [(b"x-shoal-request", self.context.request_id.encode())]
        if self.context.instance:
            ours.append((b"x-shoal-instance", self.context.instance.encode()))
        await self._send({**self.start, "headers": [*self.start.get("headers", ()), *ours]})

    async def fail(self, error: ShoalError) -> None:
        if not self.begun:
            self.begun = self.failed = True
            await send_error(self._send, error, self.context.request_id)


async def send_error(send: Send, error: ShoalError, request_id: str = "") -> None:
    """OpenAI's error object, with Retry-After where a retry may help."""
    body = {"error": {"message": str(error), "type": type(error).__name__, "param": None, "code": error.http_status}}
    if isinstance(error, InvalidArgument):
        body["error"]["param"] = error.field
    headers = [(b"content-type", b"application/json")]
    if request_id:
        headers.append((b"x-shoal-request", request_id.encode()))
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(error.retry_after_s))).encode()))
    if error.http_status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": error.http_status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


__all__ = ["OPEN_ROUTES", "Application", "HttpEdge", "send_error"]
