"""What a person asks of the controller through the console, under the key that they gave. This frontend has no right of
its own to act: the controller judges the key, act by act.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import grpc

from shoal.cluster.cli.acts import move_line
from shoal.cluster.controller_client import CALL_S, MOVE_S
from shoal.instance.auth import token_metadata
from shoal.instance.inner_tls import PLAIN, InnerTls
from shoal.proto.errors import ClientFault, InvalidArgument, NotFound, Unauthenticated, Unavailable
from shoal.proto.v1 import controller_pb2 as pb
from shoal.proto.v1 import controller_pb2_grpc as rpc

KINDS: dict[str, tuple[Any, float]] = {
    "Migrate": (pb.MigrateRequest, MOVE_S),
    "Drain": (pb.DrainRequest, CALL_S),
    "Scale": (pb.ScaleRequest, CALL_S),
    "Roles": (pb.RolesRequest, CALL_S),
}
FAULTS: dict[grpc.StatusCode, type[ClientFault]] = {
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: Unauthenticated,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.INVALID_ARGUMENT: ClientFault,
}


def parse_act(body: bytes) -> tuple[str, Any]:
    """`{"act": "Drain", "id": "i0"}` and so on: the act's name and its message. Raises InvalidArgument."""
    try:
        tree = json.loads(body)
        act = tree.pop("act")
        return act, KINDS[act][0](**tree)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        limit = f"a JSON object of one of the acts {', '.join(KINDS)} and its fields"
        raise InvalidArgument("body", limit=limit, given=body[:80].decode(errors="replace")) from None


class Acts:
    """`controller`: the address that takes acts; may block."""

    def __init__(self, controller: Callable[[], str], tls: InnerTls = PLAIN) -> None:
        self._controller, self._tls = controller, tls

    async def check(self, key: str) -> None:
        """Raises Unauthenticated where this key may not act."""
        await self._call("Status", pb.StatusRequest(), key, CALL_S)

    async def act(self, act: str, request: Any, key: str) -> str:
        """What came of it, in words. Raises ShoalError."""
        reply = await self._call(act, request, key, KINDS[act][1])
        return move_line(reply) if act == "Migrate" else str(reply.words)

    async def _call(self, method: str, request: Any, key: str, timeout_s: float) -> Any:
        address = await asyncio.to_thread(self._controller)
        async with self._tls.aio_channel(address, (("grpc.enable_http_proxy", 0),)) as channel:
            try:
                ask = getattr(rpc.ControllerStub(channel), method)
                return await ask(request, timeout=timeout_s, metadata=token_metadata(key))
            except grpc.aio.AioRpcError as exc:
                if (kind := FAULTS.get(exc.code())) is not None:
                    raise kind(str(exc.details())) from None
                raise Unavailable(f"controller: {exc.code().name.lower()}: {exc.details()}") from None


__all__ = ["Acts", "parse_act"]
