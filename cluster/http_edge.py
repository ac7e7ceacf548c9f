"""The HTTP edge, an ASGI wrapper around vLLM's application: deny by default, keys to tenants, limits, and our errors as
HTTP.

Only the routes of OPEN_ROUTES answer; everything else that vLLM mounts is closed. The first body byte is awaited before
the response starts, so that a request which never got a place becomes a 429 or 503 with Retry-After, streaming or not,
and so that the answer can name the instance that gave its first token.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from shoal.cluster.client_words import is_offline, program_of
from shoal.cluster.request_context import RequestContext, open_request
from shoal.proto.config import LimitsConfig
from shoal.proto.errors import ClientFault, InvalidArgument, NotFound, ShoalError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
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


class BodyTooLarge(ClientFault):
    http_status = 413


class HttpEdge:
    """Wraps one ASGI application. Stateless but for its settings."""

    def __init__(self, app: Application, authenticate: Authenticate, limits: LimitsConfig) -> None:
        self.app, self.authenticate, self.limits = app, authenticate, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1000})
        try:
            context = self._admit(scope)
        except ShoalError as exc:
            return await send_error(send, exc)
        _name(scope, context.request_id)
        body = LimitedBody(receive, self.limits.body_bytes, context)
        response = HeldResponse(send, context)
        with open_request(context):
            try:
                await self.app(scope, body.receive, response.send)
            except Exception:
                if context.error is None:
                    raise
                await response.fail(context.error)  # does nothing where the client has an answer
        return None

    def _admit(self, scope: Scope) -> RequestContext:
        """Raises what the client must hear instead of an answer."""
        route = (scope["method"], scope["path"])
        if route not in OPEN_ROUTES:
            raise NotFound(f"{scope['method']} {scope['path'][:100]}: no such route")
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        header_bytes = sum(len(k) + len(v) for k, v in scope["headers"])
        if header_bytes > self.limits.header_bytes:
            raise InvalidArgument("headers", limit=f"at most {self.limits.header_bytes} bytes", given=header_bytes)
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


class LimitedBody:
    """Counts what arrives; a body without a length, or with a wrong one, is cut off at the limit.

    The application answers the cut in its own way; the error in the context is what the client hears instead.
    """

    def __init__(self, receive: Receive, limit_bytes: int, context: RequestContext) -> None:
        self._receive, self.limit_bytes, self.context, self.seen_bytes = receive, limit_bytes, context, 0

    async def receive(self) -> Message:
        message = await self._receive()
        self.seen_bytes += len(message.get("body", b""))
        if self.seen_bytes > self.limit_bytes:
            self.context.error = BodyTooLarge(f"body: must be at most {self.limit_bytes} bytes, given more")
            raise self.context.error
        return message


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
