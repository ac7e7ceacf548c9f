"""From bytes of an unknown client to a checked message of a known tenant, and from errors back to status codes.

Every error of the tree is answered with its own code and words. Anything else is a bug of ours: it is logged with its
request id, and the client learns nothing but INTERNAL.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from grpc import aio

from shoal.cluster.grpc_api.ports import Authenticate
from shoal.proto.errors import InvalidArgument, ShoalError
from shoal.router.tenant_limits import TenantLimits

RETRY_AFTER = "retry-after-s"
MAX_DETAIL_CHARS = 1000  # the status travels in headers, which are small

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)
Write = Callable[[Message], Awaitable[None]]
RawHandler = Callable[[bytes, Any], Awaitable[Any]]


class Edge:
    """Wraps methods that take (message, tenant, ...) into handlers of raw bytes. A stream counts as a request."""

    def __init__(
        self,
        authenticate: Authenticate,
        body_bytes: int,
        tenants: TenantLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._authenticate = authenticate
        self._body_bytes = body_bytes
        self._tenants, self._clock = tenants or TenantLimits(), clock

    def unary(self, kind: type[M], method: Callable[[M, str], Awaitable[Message]]) -> RawHandler:
        async def handle(raw: bytes, rpc: Any) -> Any:
            try:
                return await method(*self._admit(kind, raw, rpc))
            except Exception as exc:
                return await refuse(rpc, exc)

        return handle

    def streaming(self, kind: type[M], method: Callable[[M, str, Write], Awaitable[None]]) -> RawHandler:
        async def handle(raw: bytes, rpc: Any) -> None:
            try:
                message, tenant = self._admit(kind, raw, rpc)
                with self._counted(tenant):
                    await method(message, tenant, rpc.write)
            except Exception as exc:
                await refuse(rpc, exc)

        return handle

    @contextmanager
    def _counted(self, tenant: str) -> Iterator[None]:
        self._tenants.enter(tenant, self._clock())
        try:
            yield
        finally:
            self._tenants.leave(tenant)

    def _admit(self, kind: type[M], raw: bytes, rpc: Any) -> tuple[M, str]:
        tenant = self._authenticate(authorization(rpc.invocation_metadata()))
        if len(raw) > self._body_bytes:
            raise InvalidArgument("request", limit=f"at most {self._body_bytes} bytes", given=len(raw))
        try:
            return kind.FromString(raw), tenant
        except DecodeError:
            given = f"{len(raw)} other bytes"
            raise InvalidArgument("request", limit=f"a {kind.DESCRIPTOR.full_name}", given=given) from None


def authorization(metadata: Iterable[tuple[str, str | bytes]] | None) -> str | None:
    value = next((v for k, v in metadata or () if k == "authorization"), None)
    return value.decode("latin-1") if isinstance(value, bytes) else value


async def refuse(rpc: Any, exc: Exception) -> None:
    """Ends the call with a status. Raises, as abort does."""
    if isinstance(exc, aio.AbortError):
        raise exc
    if not isinstance(exc, ShoalError):
        log.error("a call failed for a reason that is ours", exc_info=exc)
        await rpc.abort(grpc.StatusCode.INTERNAL, "internal error")
        return
    retry = () if exc.retry_after_s is None else ((RETRY_AFTER, f"{exc.retry_after_s:g}"),)
    await rpc.abort(grpc.StatusCode[exc.grpc_code], str(exc)[:MAX_DETAIL_CHARS], trailing_metadata=retry)


__all__ = ["RETRY_AFTER", "Edge", "Write", "authorization", "refuse"]
