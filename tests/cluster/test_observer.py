"""The controller's stream to an instance: whatever ends it is a reason in words, never an error of ours."""

import asyncio

import grpc
import pytest

from shoal.cluster.observer import observe
from shoal.proto.v1 import instance_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["Instance"].full_name
WELCOME = pb.Down(welcome=pb.Welcome(instance_id="x")).SerializeToString()
BEAT = pb.Down(report=pb.StepReport(step=1)).SerializeToString()


@pytest.mark.parametrize(
    ("frames", "reason", "beats"),
    [
        ([WELCOME, BEAT], "stream closed by the instance", 1),
        ([WELCOME, b"\xff\xff", BEAT], "stream damaged: bytes of no frame", 0),
        ([b"\xff\xff"], "stream damaged: bytes of no frame", 0),
    ],
)
async def test_whatever_ends_the_stream_is_a_reason(frames, reason, beats):
    async def attach(_requests, _context):
        for frame in frames:
            yield frame

    server, heard = grpc.aio.server(), []
    handlers = {"Attach": grpc.stream_stream_rpc_method_handler(attach)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with asyncio.timeout(30):
            said = await observe(
                f"127.0.0.1:{port}", "token", asyncio.Queue(), welcomed=lambda _: None, heard=heard.append
            )
    finally:
        await server.stop(None)
    assert (said, len(heard)) == (reason, beats)
