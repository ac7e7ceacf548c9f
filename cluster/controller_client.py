"""A small synchronous client of the controller, for the head and the command line. Light: no Ray, no vLLM."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

import grpc

from shoal.instance.auth import token_metadata
from shoal.instance.inner_tls import PLAIN, InnerTls
from shoal.proto.config import ClusterConfig
from shoal.proto.errors import NotFound, Unavailable
from shoal.proto.v1 import controller_pb2 as pb
from shoal.proto.v1 import controller_pb2_grpc as rpc

CALL_S = 3.0
MOVE_S = 60.0
RETRY_S = 0.1
_PASSING = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


class ControllerClient:
    """`address` and `token`: of its inner or its admin port; who acts is an admin. `inner_token`: of frontends."""

    def __init__(self, address: str, token: str, *, inner_token: str = "", tls: InnerTls = PLAIN) -> None:
        options = (("grpc.max_reconnect_backoff_ms", 500), ("grpc.enable_http_proxy", 0))
        self._channel, self._tls = tls.channel(address, options), tls
        self._stub = rpc.ControllerStub(self._channel)
        self._metadata, self._inner_metadata = token_metadata(token), token_metadata(inner_token or token)

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
        return list(self._call(self._stub.Revive, pb.ReviveRequest(id=instance_id)).ids)

    def migrate(self, request_id: str, target: str) -> pb.MoveReport:
        """Returns when the move has ended, however."""
        request = pb.MigrateRequest(request_id=request_id, target=target)
        report: pb.MoveReport = self._call(self._stub.Migrate, request, MOVE_S)
        return report

    def drain(self, instance_id: str) -> str:
        return str(self._call(self._stub.Drain, pb.DrainRequest(id=instance_id)).words)

    def scale(self, instances: int) -> str:
        return str(self._call(self._stub.Scale, pb.ScaleRequest(instances=instances)).words)

    def restart(self) -> str:
        return str(self._call(self._stub.Restart, pb.RestartRequest()).words)

    def set_roles(self, roles: dict[str, str]) -> str:
        return str(self._call(self._stub.Roles, pb.RolesRequest(roles=roles)).words)

    def router(self, act: str, *, weights: bytes = b"", share: float = 0.0) -> pb.RouterWanted:
        request = pb.RouterAct(act=act, weights=weights, share=share)
        wanted: pb.RouterWanted = self._call(self._stub.Router, request)
        return wanted

    def router_report(self, frontend: pb.FrontendInfo) -> pb.RouterReport:
        """Of one frontend, asked directly."""
        return self._ask(frontend, "Router", pb.RouterAsk())

    def moves(self, request_id: str) -> list[pb.MoveReport]:
        return list(self._call(self._stub.Moves, pb.StoryRequest(request_id=request_id)).moves)

    def story(self, frontend: pb.FrontendInfo, request_id: str) -> list[pb.RequestStory]:
        """Of one frontend, asked directly."""
        return list(self._ask(frontend, "Story", pb.StoryRequest(request_id=request_id)).requests)

    def _ask(self, frontend: pb.FrontendInfo, method: str, request: Any) -> Any:
        with self._tls.channel(frontend.inner, (("grpc.enable_http_proxy", 0),)) as channel:
            return self._call(getattr(rpc.FrontendStub(channel), method), request, metadata=self._inner_metadata)

    def _call(self, method: Any, request: Any, timeout_s: float = CALL_S, *, metadata: Any = None) -> Any:
        """Raises a ShoalError that says in one line what the other side said."""
        try:
            return method(request, timeout=timeout_s, metadata=metadata or self._metadata)
        except grpc.RpcError as exc:
            if exc.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT):
                raise NotFound(str(exc.details())) from None
            raise Unavailable(f"controller: {exc.code().name.lower()}: {exc.details()}") from None


def admin_client(address: str, config: ClusterConfig) -> ControllerClient:
    """For whoever may read the cluster's own configuration."""
    tls = InnerTls.of(config.tls)
    return ControllerClient(address, config.token("admin"), inner_token=config.token("inner"), tls=tls)


__all__ = ["ControllerClient", "admin_client"]
