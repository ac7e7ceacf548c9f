"""A span of the pool's around each traced call, below the caller's `traceparent` in the metadata."""

from __future__ import annotations

from typing import Any

import grpc

from shoal.proto import tracing


class TracedPool(grpc.ServerInterceptor):
    """Calls with one answer; what is not traced passes through."""

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = continuation(details)
        parent = next((v for k, v in details.invocation_metadata or () if k == tracing.HEADER), "")
        if not parent or handler is None or handler.unary_unary is None:
            return handler

        def traced(ask: Any, context: Any) -> Any:
            span = tracing.begin(f"pool {details.method.rsplit('/', 1)[-1]}", parent)
            try:
                return handler.unary_unary(ask, context)
            finally:
                span.end()

        return handler._replace(unary_unary=traced)


__all__ = ["TracedPool"]
