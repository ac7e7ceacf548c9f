"""The door of every inner listener: a call without the cluster's token is refused before anything of it is read, and so
is a method that is not for this door. It stands before all methods, those that are added later too.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import grpc

from shoal.instance.auth import has_token

NO_TOKEN = "cluster token missing or wrong"


def refusal(code: grpc.StatusCode, words: str) -> Any:
    """A handler for asynchronous servers that answers any kind of call without reading it."""

    async def refuse(_asks: Any, context: Any) -> None:
        await context.abort(code, words)

    return grpc.stream_stream_rpc_method_handler(refuse)


def method_of(details: Any) -> str:
    """The last part of /package.Service/Method."""
    return str(details.method).rsplit("/", 1)[-1]


class AsyncGate(grpc.aio.ServerInterceptor):
    """`methods`: names of those that answer here; None: all."""

    def __init__(self, token: str, methods: Collection[str] | None = None) -> None:
        self.token, self.methods = token, methods

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        if not has_token(details.invocation_metadata, self.token):
            return refusal(grpc.StatusCode.UNAUTHENTICATED, NO_TOKEN)
        if self.methods is not None and method_of(details) not in self.methods:
            return refusal(grpc.StatusCode.PERMISSION_DENIED, f"{method_of(details)}: not at this port")
        return await continuation(details)


class Gate(grpc.ServerInterceptor):
    """The same for a server of threads."""

    def __init__(self, token: str) -> None:
        self.token = token

        def refuse(_asks: Any, context: Any) -> Any:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, NO_TOKEN)
            yield  # a generator, as every streaming method

        self.refusal = grpc.stream_stream_rpc_method_handler(refuse)

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        return continuation(details) if has_token(details.invocation_metadata, self.token) else self.refusal


__all__ = ["NO_TOKEN", "AsyncGate", "Gate", "method_of", "refusal"]
