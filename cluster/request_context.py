"""What a request brings along past vLLM's AsyncLLM, which has no place for it, and what it brings back.

The edge that took the request (gRPC servicer or HTTP middleware) opens a context around its use of AsyncLLM. The engine
client below reads it through `current_request` when a request is added, keeps the object, and writes `instance` and
`error` into it. All choices of one client request share one context. Outside any (vLLM's own warm-up, say) it is None.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from shoal.proto.errors import ShoalError


@dataclass(slots=True, eq=False)
class RequestContext:
    """The edge writes all but the last two fields, once; the engine client writes those.

    deadline_s: from now to the first token; 0 = the cluster's default. priority: smaller is served first.
    program: which agent or workflow it is a call of; unique per tenant, empty = none. offline: nobody waits for it.
    resume_key: empty = not resumable; unique per tenant. resume_context: opaque, for the frontend that adopts it.
    traceparent: W3C, of the call; empty: it is not traced.
    error: why this request failed, set before AsyncLLM's stream ends or raises.
    """

    request_id: str
    tenant: str
    priority: int = 0
    deadline_s: float = 0.0
    resume_key: str = ""
    resume_context: bytes = b""
    program: str = ""
    offline: bool = False
    traceparent: str = ""
    instance: str = ""
    error: ShoalError | None = None


current_request: ContextVar[RequestContext | None] = ContextVar("current_request", default=None)
called_by: ContextVar[str] = ContextVar("called_by", default="")  # the traceparent of the call that is being served


@contextmanager
def open_request(context: RequestContext) -> Iterator[RequestContext]:
    """Within the block, and in tasks started there, `current_request` is `context`."""
    context.traceparent = context.traceparent or called_by.get()
    token = current_request.set(context)
    try:
        yield context
    finally:
        current_request.reset(token)


__all__ = ["RequestContext", "called_by", "current_request", "open_request"]
