"""Where traces come in and go out: a span of the frontend around each request of a client, HTTP or gRPC. Its parent is
the client's own `traceparent`; ours goes back with the answer, and to all that the request causes.

Stands in front of the edges only where tracing is on.
"""

from __future__ import annotations

from typing import Any

import grpc

from shoal.cluster.http_body import Message, Receive
from shoal.cluster.http_edge import Application, Scope, Send
from shoal.cluster.request_context import called_by
from shoal.proto import tracing


class TracedHttp:
    """POST requests only: what else there is serves nobody's prompt."""

    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self.app(scope, receive, send)
        parent = dict(scope["headers"]).get(tracing.HEADER.encode(), b"").decode("latin-1")
        span = tracing.begin(f"POST {scope['path'][:100]}", parent, root=True)
        called_by.set(span.traceparent)

        async def traced(message: Message) -> None:
            if message["type"] == "http.response.start":
                span.note(status=message["status"])
                ours = (tracing.HEADER.encode(), span.traceparent.encode())
                message = {**message, "headers": [*message.get("headers", ()), ours]}
            await send(message)

        try:
            await self.app(scope, receive, traced)
        finally:
            span.end()


class TracedCalls(grpc.aio.ServerInterceptor):
    """The API's own methods. Ours goes back as initial metadata."""

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = await continuation(details)
        if handler is None or not details.method.startswith("/shoal."):
            return handler
        kind = "unary_stream" if handler.response_streaming else "unary_unary"
        inner = getattr(handler, kind)

        async def traced(ask: Any, context: Any) -> Any:
            parent = next((v for k, v in context.invocation_metadata() or () if k == tracing.HEADER), "")
            span = tracing.begin(details.method, str(parent), root=True)
            called_by.set(span.traceparent)
            try:
                await context.send_initial_metadata(((tracing.HEADER, span.traceparent),))
                return await inner(ask, context)
            finally:
                span.end()

        return handler._replace(**{kind: traced})


__all__ = ["TracedCalls", "TracedHttp"]
