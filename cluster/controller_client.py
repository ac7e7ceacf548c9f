"""A small synchronous client of the controller, for the head and the command line. Light: no Ray, no vLLM."""

from __future__ import annotations

import time
from types import TracebackType

import grpc

from shoal.instance.auth import token_metadata
from shoal.proto.errors import Unavailable
from shoal.proto.v1 import controller_pb2 as pb
from shoal.proto.v1 import controller_pb2_grpc as rpc

CALL_S = 3.0
RETRY_S = 0.1
_PASSING = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


class ControllerClient:
    def __init__(self, address: str, token: str) -> None:
        self._channel = grpc.insecure_channel(
            address, options=(("grpc.max_reconnect_backoff_ms", 500), ("grpc.enable_http_proxy", 0))
        )
        self._stub = rpc.ControllerStub(self._channel)
        self._metadata = token_metadata(token)

    def __enter__(self) -> ControllerClient:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _exc: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()

    def status(self, *, patience_s: float = 0.0) -> pb.StatusReply:
        """Raises Unavailable when nobody answered for `patience_s`: a controller may be restarting."""
        end_s = time.monotonic() + patience_s
        while True:
            try:
                reply: pb.StatusReply = self._stub.Status(pb.StatusRequest(), timeout=CALL_S, metadata=self._metadata)
                return reply
            except grpc.RpcError as exc:
                if exc.code() not in _PASSING or time.monotonic() > end_s:
                    raise Unavailable(f"controller: {exc.code().name.lower()}: {exc.details()}") from None
            time.sleep(RETRY_S)

    def revive(self, instance_id: str) -> list[str]:
        try:
            reply: pb.ReviveReply = self._stub.Revive(
                pb.ReviveRequest(id=instance_id), timeout=CALL_S, metadata=self._metadata
            )
            return list(reply.ids)
        except grpc.RpcError as exc:
            raise Unavailable(f"controller: {exc.details()}") from None


__all__ = ["ControllerClient"]
