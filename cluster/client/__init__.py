"""The Python client of the gRPC API. Light: it imports gRPC, protobuf and shoal.proto only.

with ShoalClient(["127.0.0.1:50051"]) as client:
    for reply in client.generate("Once", max_tokens=64):
        print(reply.text, end="")
"""

from shoal.cluster.client.aio import AsyncShoalClient, AsyncStream
from shoal.cluster.client.errors import CallFailed
from shoal.cluster.client.flight import RetryPolicy
from shoal.cluster.client.request import Answer, Choice
from shoal.cluster.client.sync import ShoalClient, Stream

__all__ = [
    "Answer",
    "AsyncShoalClient",
    "AsyncStream",
    "CallFailed",
    "Choice",
    "RetryPolicy",
    "ShoalClient",
    "Stream",
]
