"""Watchers of the static controller see what those of the real one see: all at once, then every change."""

import asyncio

import grpc

from shoal.bench.static_controller import StaticController
from shoal.proto.v1 import controller_pb2 as pb
from shoal.proto.v1 import controller_pb2_grpc as rpc


async def test_each_watcher_gets_the_present_membership_and_then_every_later_one():
    controller = StaticController()
    address = await controller.start()
    await controller.set_members([pb.Member(id="a")])
    async with grpc.aio.insecure_channel(address) as channel:
        stub = rpc.ControllerStub(channel)
        streams = [stub.Watch(pb.WatchRequest(frontend=pb.FrontendInfo(id=name))) for name in ("f", "g")]
        for stream in streams:
            assert [m.id for m in (await stream.read()).instances] == ["a"]
        await controller.set_members([pb.Member(id="a"), pb.Member(id="b")])
        async with asyncio.timeout(10):
            seen = [await stream.read() for stream in streams]
        assert [[m.id for m in one.instances] for one in seen] == [["a", "b"]] * 2
        assert {one.version for one in seen} == {2}
    assert controller.frontends.keys() == {"f", "g"}
    await controller.stop()
