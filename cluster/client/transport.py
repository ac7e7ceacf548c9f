"""What the two clients share of gRPC: channel options, method names, and failures read off its errors."""

from __future__ import annotations

from typing import Any

import grpc

from shoal.cluster.client.flight import Failure
from shoal.proto.v1 import inference_pb2 as pb

# A frozen or cut-off frontend is noticed by a ping that stays unanswered; gRPC's keepalive timeout alone does not act
# on it.
OPTIONS = [
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 2_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.enable_retries", 0),
]
REQUESTS: dict[str, Any] = {
    "Generate": pb.GenerateRequest,
    "Resume": pb.ResumeRequest,
    "Cancel": pb.CancelRequest,
    "GetModel": pb.GetModelRequest,
}
REPLIES: dict[str, Any] = {
    "Generate": pb.GenerateReply,
    "Resume": pb.GenerateReply,
    "Cancel": pb.CancelReply,
    "GetModel": pb.GetModelReply,
}


def method(channel: Any, name: str) -> Any:
    """A callable of either kind of channel."""
    streams = REPLIES[name] is pb.GenerateReply
    kind = channel.unary_stream if streams else channel.unary_unary
    return kind(
        f"/shoal.v1.Inference/{name}",
        request_serializer=REQUESTS[name].SerializeToString,
        response_deserializer=REPLIES[name].FromString,
    )


def metadata(key: str | None) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),) if key else ()


def failure_of(error: Any) -> Failure:
    """`error` is an RpcError of either kind."""
    code = error.code() or grpc.StatusCode.UNKNOWN
    trailing = {k: v for k, v in error.trailing_metadata() or ()}
    return Failure(code.name, error.details() or "", _seconds(trailing.get("retry-after-s")))


def _seconds(text: Any) -> float | None:
    try:
        return max(0.0, float(text))
    except (TypeError, ValueError):
        return None


__all__ = ["OPTIONS", "failure_of", "metadata", "method"]
