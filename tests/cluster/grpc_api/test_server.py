import asyncio

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from shoal.cluster.client.transport import method
from shoal.cluster.grpc_api.server import SERVICE
from shoal.proto.errors import StartFailed
from shoal.proto.limits import LimitsConfig
from shoal.proto.v1 import inference_pb2 as pb
from tests.cluster.grpc_api.stubs import RED, StubEngine, letters, serving


def generate_by_reflection(address, text, metadata):
    """A client that knows the service's name and nothing else of it."""
    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(database)
        assert SERVICE in database.get_services()
        method_ = pool.FindServiceByName(SERVICE).methods_by_name["Generate"]
        request, reply = GetMessageClass(method_.input_type), GetMessageClass(method_.output_type)
        call = channel.unary_stream(
            f"/{SERVICE}/Generate",
            request_serializer=request.SerializeToString,
            response_deserializer=reply.FromString,
        )
        return list(call(request(text=text, sampling={"max_tokens": 5}), metadata=metadata, timeout=10))


async def test_a_client_written_only_from_reflection_generates():
    async with serving(StubEngine(letters("hello"))) as server:
        replies = await asyncio.to_thread(generate_by_reflection, f"127.0.0.1:{server.port}", "abc", RED)
    assert "".join(r.text for r in replies) == "hello"


@pytest.mark.parametrize("service", ["", SERVICE])
async def test_health_says_what_it_was_told(service):
    async with serving(StubEngine()) as server, aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        seen = []
        for serving_ in (True, False):
            await server.set_serving(serving_)
            seen.append((await check(health_pb2.HealthCheckRequest(service=service))).status)
    assert seen == [health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING]


async def test_a_taken_port_is_one_clear_line():
    async with serving(StubEngine()) as server:
        with pytest.raises(StartFailed, match=f"grpc_port: 127.0.0.1:{server.port} cannot be bound"):
            async with serving(StubEngine(), port=server.port):
                pass


async def test_replicas_may_share_a_port():
    async with serving(StubEngine(), reuse_port=True) as first:
        async with serving(StubEngine(), port=first.port, reuse_port=True) as second:
            assert second.port == first.port


async def refused(server, name, raw, metadata):
    async with aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        kind = channel.unary_stream if name in ("Generate", "Resume") else channel.unary_unary
        rpc = kind(f"/{SERVICE}/{name}")(raw, metadata=metadata, timeout=10)
        with pytest.raises(aio.AioRpcError) as caught:
            await (rpc.read() if name in ("Generate", "Resume") else rpc)
        return caught.value


@pytest.mark.parametrize("name", ["Generate", "Resume", "Cancel", "GetModel"])
@pytest.mark.parametrize("metadata", [(), (("authorization", "Bearer wrong"),), (("authorization", "red-key"),)])
async def test_no_method_answers_without_a_key(name, metadata):
    async with serving(StubEngine()) as server:
        error = await refused(server, name, b"", metadata)
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("name", ["Generate", "Resume", "Cancel", "GetModel"])
@pytest.mark.parametrize("raw", [b"\xff\xff\xff", b"\x0a\x02\xff\xfe"], ids=["wrong proto", "malformed UTF-8"])
async def test_bytes_of_no_message_are_an_invalid_argument(name, raw):
    async with serving(StubEngine()) as server:
        error = await refused(server, name, raw, RED)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"request: must be a shoal.v1.{name}Request" in error.details()


async def test_a_body_over_the_limit_names_the_limit():
    async with serving(StubEngine(), limits=LimitsConfig(body_bytes=1000)) as server:
        error = await refused(server, "Generate", pb.GenerateRequest(text="x" * 1500).SerializeToString(), RED)
        far = await refused(server, "Generate", pb.GenerateRequest(text="x" * 15000).SerializeToString(), RED)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "request: must be at most 1000 bytes, given 1503"
    assert far.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # gRPC's own, far above the limit
    assert "retry-after-s" not in dict(far.trailing_metadata() or ())


async def test_stop_ends_what_runs_after_the_grace():
    async def forever(engine):
        await asyncio.Event().wait()

    engine = StubEngine([letters("ab")[0], forever])
    async with serving(engine) as server, aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        rpc = method(channel, "Generate")(pb.GenerateRequest(text="abc"), metadata=RED, timeout=10)
        await rpc.read()
        await server.stop(0.05)
        async with asyncio.timeout(10):
            await engine.ended.wait()
        with pytest.raises((aio.AioRpcError, asyncio.CancelledError)):
            await rpc.read()
