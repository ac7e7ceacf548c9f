"""The gRPC endpoint over real vLLM: a client that knows only reflection, health, limits, and a frontend's death."""

from __future__ import annotations

import asyncio
import os
import signal

import grpc
import psutil
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from shoal.cluster.client import AsyncShoalClient, CallFailed, ShoalClient
from shoal.proto.v1 import inference_pb2 as pb
from shoal.proto.v1 import inference_pb2_grpc as rpc
from tests.e2e.conftest import Cluster

SERVICE = "shoal.v1.Inference"
ADA = (("authorization", "Bearer key-of-ada"),)


def test_a_client_written_only_from_reflection_generates(cluster: Cluster) -> None:
    with grpc.insecure_channel(cluster.grpc) as channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        method = pool.FindServiceByName(SERVICE).methods_by_name["Generate"]
        request, reply = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        call = channel.unary_stream(
            f"/{SERVICE}/Generate",
            request_serializer=request.SerializeToString,
            response_deserializer=reply.FromString,
        )
        ask = request(text="hello", sampling={"max_tokens": 8, "ignore_eos": True})
        replies = list(call(ask, metadata=ADA, timeout=30))
    assert sum(len(r.token_ids) for r in replies) == 8
    assert replies[-1].finish_reason == "length" and replies[-1].instance in {"i0", "i1"}


def test_health_says_serving(cluster: Cluster) -> None:
    with grpc.insecure_channel(cluster.grpc) as channel:
        reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=10)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_text_and_tokens_agree_with_the_other_endpoint(cluster: Cluster) -> None:
    with ShoalClient(cluster.grpc, key="key-of-ada") as client:
        answer = client.generate("once upon a time", temperature=0, max_tokens=16).complete()
    ask = {"model": "tiny", "prompt": "once upon a time", "max_tokens": 16, "temperature": 0}
    assert answer.text == cluster.openai().completions.create(**ask).choices[0].text


@pytest.mark.parametrize(
    ("ask", "code", "word"),
    [
        (pb.GenerateRequest(text="x", model="nope"), grpc.StatusCode.NOT_FOUND, "nope"),
        (pb.GenerateRequest(), grpc.StatusCode.INVALID_ARGUMENT, "prompt"),
        (pb.GenerateRequest(text="x", sampling={"temperature": -1}), grpc.StatusCode.INVALID_ARGUMENT, "temperature"),
        (pb.GenerateRequest(token_ids={"ids": [1] * 5000}), grpc.StatusCode.INVALID_ARGUMENT, "4095"),
        (pb.GenerateRequest(token_ids={"ids": [10**6]}), grpc.StatusCode.INVALID_ARGUMENT, "token"),
        (pb.GenerateRequest(text="x", sampling={"n": 99}), grpc.StatusCode.INVALID_ARGUMENT, "n"),
    ],
)
def test_bad_requests_name_the_field(
    cluster: Cluster, ask: pb.GenerateRequest, code: grpc.StatusCode, word: str
) -> None:
    with grpc.insecure_channel(cluster.grpc) as channel, pytest.raises(grpc.RpcError) as failed:
        list(rpc.InferenceStub(channel).Generate(ask, metadata=ADA, timeout=30))
    assert failed.value.code() is code and word in failed.value.details()


def test_without_a_key_nothing_is_served(cluster: Cluster) -> None:
    with ShoalClient(cluster.grpc) as client, pytest.raises(CallFailed) as failed:
        client.generate("x", max_tokens=1).complete()
    assert failed.value.code == "UNAUTHENTICATED"


@pytest.mark.timeout(180)
async def test_a_killed_frontends_stream_goes_on_through_another(cluster: Cluster) -> None:
    """No gap, no repeat. Both frontends share one port, so the one that serves is found by its requests."""
    ask = {"token_ids": [7] * 50, "max_tokens": 600, "temperature": 1.0, "seed": 5, "ignore_eos": True}
    async with AsyncShoalClient(cluster.grpc, key="key-of-ada") as client:
        want = [token async for reply in client.generate(**ask) for token in reply.token_ids]
        before = await asyncio.to_thread(cluster.status)
        tokens: list[int] = []
        killed = 0
        async for reply in client.generate(**ask, request_id="outlives-its-frontend"):
            assert reply.index == len(tokens)
            tokens += reply.token_ids
            if not killed and len(tokens) > 20:
                killed = await asyncio.to_thread(serving_pid, cluster, [f.pid for f in before.frontends])
                os.kill(killed, signal.SIGKILL)
    assert killed and tokens == want
    for _ in range(240):
        after = await asyncio.to_thread(cluster.status)
        if len(after.frontends) == len(before.frontends) and killed not in {f.pid for f in after.frontends}:
            break
        await asyncio.sleep(0.5)
    else:
        raise AssertionError("the killed frontend was not replaced")
    await asyncio.to_thread(cluster.await_idle)


def serving_pid(cluster: Cluster, pids: list[int]) -> int:
    """The frontend process that holds an established connection on the gRPC port with a client of this process."""
    mine = {
        c.laddr.port
        for c in psutil.Process().net_connections("tcp")
        if c.raddr and c.raddr.port == cluster.config.grpc_port
    }
    for pid in pids:
        for connection in psutil.Process(pid).net_connections("tcp"):
            if connection.raddr and connection.raddr.port in mine and connection.status == "ESTABLISHED":
                return pid
    raise AssertionError("nobody serves this client")
