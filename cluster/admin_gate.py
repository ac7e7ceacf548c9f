"""The controller's two doors. At the admin port whoever holds the cluster's admin token or a person's key may act, and
every act, done, failed or refused, is one line of the audit log `shoal.audit`. At the inner port our processes read,
and may take learned weights back, which is always safe.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict

from shoal.instance.auth import TOKEN_KEY
from shoal.instance.gate import NO_TOKEN, AsyncGate, method_of, refusal
from shoal.proto.security import as_digests, owner_of

audit = logging.getLogger("shoal.audit")
OWNER = "owner"  # who started the cluster: the holder of its admin token
READS = frozenset({"Status", "Moves"})
INNER_METHODS = READS | {"Watch", "View", "Router"}
ACTS = frozenset({"Revive", "Migrate", "Scale", "Drain", "Restart", "Roles", "Router"})


class AdminGate(grpc.aio.ServerInterceptor):
    """`people`: key or digest -> name."""

    def __init__(self, token: str, people: Mapping[str, str]) -> None:
        self._keys = as_digests({**people, token: OWNER})

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        act = method_of(details)
        given = next((v for k, v in details.invocation_metadata or () if k == TOKEN_KEY), "")
        who = owner_of(given if isinstance(given, str) else bytes(given).decode("latin-1"), self._keys)
        if who is None:
            note(act, "nobody", "refused")
            return refusal(grpc.StatusCode.UNAUTHENTICATED, NO_TOKEN)
        if act not in READS | ACTS:
            note(act, who, "refused")
            return refusal(grpc.StatusCode.PERMISSION_DENIED, f"{act}: not at this port")
        handler = await continuation(details)
        return handler if act in READS else _audited(handler, act, who)


class InnerGate(AsyncGate):
    def __init__(self, token: str) -> None:
        super().__init__(token, INNER_METHODS)

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = await super().intercept_service(continuation, details)
        return _only_back(handler) if method_of(details) == "Router" and handler.unary_unary else handler


def _only_back(handler: Any) -> Any:
    async def run(ask: Any, context: Any) -> Any:
        if ask.act != "rollback":
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, f"{ask.act}: not at this port")
        return await handler.unary_unary(ask, context)

    return _unary(run, handler)


def _audited(handler: Any, act: str, who: str) -> Any:
    async def run(ask: Any, context: Any) -> Any:
        outcome = "failed"
        try:
            answer = await handler.unary_unary(ask, context)
            outcome = "done"
            return answer
        finally:
            note(act, who, outcome, context.peer(), MessageToDict(ask, preserving_proto_field_name=True))

    return _unary(run, handler)


def _unary(run: Callable[[Any, Any], Awaitable[Any]], like: Any) -> Any:
    return grpc.unary_unary_rpc_method_handler(
        run, request_deserializer=like.request_deserializer, response_serializer=like.response_serializer
    )


def note(act: str, who: str, outcome: str, peer: str = "", ask: Mapping[str, Any] | None = None) -> None:
    said = {name: value for name, value in (ask or {}).items() if name != "weights"}  # that is a file
    fields = {"act": act, "who": who, "outcome": outcome, "peer": peer, "ask": said}
    audit.info("%s by %s: %s %s", act, who, outcome, fields["ask"], extra={"fields": fields})


__all__ = ["ACTS", "INNER_METHODS", "OWNER", "READS", "AdminGate", "InnerGate"]
