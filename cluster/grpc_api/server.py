"""The listener of the client API: Inference, grpc.health.v1 and reflection on one port."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from shoal.cluster.grpc_api.edge import Edge
from shoal.cluster.grpc_api.ports import Authenticate
from shoal.cluster.grpc_api.servicer import InferenceServicer
from shoal.cluster.trace_edges import TracedCalls
from shoal.proto import tracing
from shoal.proto.errors import StartFailed
from shoal.proto.limits import LimitsConfig
from shoal.proto.v1 import inference_pb2 as pb
from shoal.router.tenant_limits import TenantLimits

SERVICE = pb.DESCRIPTOR.services_by_name["Inference"].full_name
# Above body_bytes gRPC still reads a message, so that it is refused in our words; above this multiple it does not.
HARD_LIMIT_FACTOR = 4


@dataclass(frozen=True, slots=True)
class GrpcServer:
    """A started server. `port` is the one bound, where 0 was asked for too."""

    native: aio.Server
    health: health.aio.HealthServicer
    port: int

    async def set_serving(self, serving: bool) -> None:
        """What grpc.health.v1 says; requests are taken all the same."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", SERVICE):
            await self.health.set(name, status)

    async def stop(self, grace_s: float) -> None:
        """No new calls; those running are cut off after `grace_s`."""
        await self.health.enter_graceful_shutdown()
        await self.native.stop(grace_s)


async def start_server(
    servicer: InferenceServicer,
    authenticate: Authenticate,
    limits: LimitsConfig,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    reuse_port: bool = False,
    tenants: TenantLimits | None = None,
    credentials: grpc.ServerCredentials | None = None,
) -> GrpcServer:
    """Runs on the loop that calls this. Not serving by its health answer until told so. `credentials`: of TLS; None:
    plain text. Raises StartFailed.
    """
    server = aio.server(options=_options(limits, reuse_port), interceptors=[TracedCalls()] if tracing.is_on() else [])
    server.add_generic_rpc_handlers((_handlers(servicer, Edge(authenticate, limits.body_bytes, tenants)),))
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    try:
        where = f"{host}:{port}"
        bound = server.add_secure_port(where, credentials) if credentials else server.add_insecure_port(where)
    except RuntimeError:
        raise StartFailed(f"grpc_port: {host}:{port} cannot be bound, another process may have it") from None
    await server.start()
    started = GrpcServer(server, healthy, bound)
    await started.set_serving(False)
    return started


def _handlers(servicer: InferenceServicer, edge: Edge) -> grpc.GenericRpcHandler:
    """Of raw bytes: with generated handlers gRPC would answer a malformed message before we see it, as INTERNAL."""
    unary, streaming = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    out: Any = {"response_serializer": lambda message: message.SerializeToString()}
    methods = {
        "Generate": streaming(edge.streaming(pb.GenerateRequest, servicer.generate), **out),
        "Resume": streaming(edge.streaming(pb.ResumeRequest, servicer.resume), **out),
        "Cancel": unary(edge.unary(pb.CancelRequest, servicer.cancel), **out),
        "GetModel": unary(edge.unary(pb.GetModelRequest, servicer.get_model), **out),
    }
    return grpc.method_handlers_generic_handler(SERVICE, methods)


def _options(limits: LimitsConfig, reuse_port: bool) -> Sequence[tuple[str, int]]:
    return [
        ("grpc.max_concurrent_streams", limits.streams),
        ("grpc.server_handshake_timeout_ms", int(limits.header_s * 1e3)),
        ("grpc.max_connection_idle_ms", 300_000),
        ("grpc.so_reuseport", int(reuse_port)),
        ("grpc.max_receive_message_length", HARD_LIMIT_FACTOR * limits.body_bytes),
        ("grpc.max_metadata_size", limits.header_bytes),
        ("grpc.absolute_max_metadata_size", limits.header_bytes),
        # A client that was cut off frees its request within seconds: ping it when it is silent, wait so long for the
        # answer.
        ("grpc.keepalive_time_ms", 5_000),
        ("grpc.http2.ping_timeout_ms", 2_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 500),
        ("grpc.http2.max_ping_strikes", 5),  # then it is a flood
    ]


__all__ = ["SERVICE", "GrpcServer", "start_server"]
