"""The same client over either of the product's two APIs."""

from __future__ import annotations

from typing import Literal

from shoal.bench.grpc_client import GrpcClient, GrpcTarget
from shoal.bench.http_client import HttpClient, HttpTarget
from shoal.bench.workload import PromptMaker

Api = Literal["http", "grpc"]
APIS: tuple[Api, ...] = ("http", "grpc")


def client_of(
    api: Api,
    *,
    http: str,
    grpc: str,
    model: str,
    prompts: PromptMaker,
    key: str = "",
    request_timeout_s: float = 600.0,
) -> HttpClient | GrpcClient:
    """`http` is a URL, `grpc` host:port; both are an asynchronous context."""
    keys = {"default": key} if key else {}
    if api == "grpc":
        return GrpcClient(GrpcTarget(grpc, model, keys, request_timeout_s=request_timeout_s), prompts)
    return HttpClient(HttpTarget(http, model, keys=keys, request_timeout_s=request_timeout_s), prompts)


__all__ = ["APIS", "Api", "client_of"]
