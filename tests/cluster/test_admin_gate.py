"""Only people act, under their own name, and every act is written down, those that were refused too."""

import logging

import grpc
import pytest

from shoal.cluster.admin_gate import ACTS, INNER_METHODS, READS, AdminGate, InnerGate
from shoal.instance.auth import token_metadata
from shoal.proto.v1 import controller_pb2 as pb
from shoal.proto.v1 import controller_pb2_grpc as rpc

ADMIN, INNER = "admin token", "inner token"


class Controller(rpc.ControllerServicer):
    async def Scale(self, request, context):
        if request.instances > 4:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "too many")
        return pb.ActReply(words="scaled")

    async def Status(self, request, context):
        return pb.StatusReply(act="none")

    async def Router(self, request, context):
        return pb.RouterWanted(stage=request.act)


@pytest.fixture
async def stubs():
    servers, channels, stubs = [], [], {}
    for name, gate in (("admin", AdminGate(ADMIN, {"key-of-eve": "eve"})), ("inner", InnerGate(INNER))):
        server = grpc.aio.server(interceptors=[gate])
        rpc.add_ControllerServicer_to_server(Controller(), server)
        channels.append(grpc.aio.insecure_channel(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"))
        await server.start()
        servers.append(server)
        stubs[name] = rpc.ControllerStub(channels[-1])
    yield stubs
    for one in channels:
        await one.close()
    for one in servers:
        await one.stop(None)


@pytest.fixture
def audit(caplog):
    caplog.set_level(logging.INFO, logger="shoal.audit")
    return lambda: [
        tuple(record.fields[name] for name in ("who", "act", "outcome", "ask"))
        for record in caplog.records
        if record.name == "shoal.audit"
    ]


async def scale(stub, key, instances=2):
    try:
        metadata = token_metadata(key)
        return (await stub.Scale(pb.ScaleRequest(instances=instances), metadata=metadata, timeout=10)).words
    except grpc.aio.AioRpcError as exc:
        return exc.code().name


async def test_an_act_is_done_and_written_down_with_the_name_of_who_did_it(stubs, audit):
    assert [await scale(stubs["admin"], key) for key in (ADMIN, "key-of-eve")] == ["scaled"] * 2
    assert audit() == [(who, "Scale", "done", {"instances": 2}) for who in ("owner", "eve")]


async def test_an_act_that_fails_or_is_refused_is_written_down_too(stubs, audit):
    assert await scale(stubs["admin"], "key-of-eve", 5) == "INVALID_ARGUMENT"
    for key in ("", "wrong", INNER):
        assert await scale(stubs["admin"], key) == "UNAUTHENTICATED"
    assert audit() == [("eve", "Scale", "failed", {"instances": 5}), *[("nobody", "Scale", "refused", {})] * 3]
    assert "key-of-eve" not in repr(audit())


async def test_looking_is_no_act(stubs, audit):
    reply = await stubs["admin"].Status(pb.StatusRequest(), metadata=token_metadata(ADMIN), timeout=10)
    assert reply.act == "none" and audit() == []


async def test_the_inner_token_opens_no_act_at_any_port(stubs):
    assert await scale(stubs["inner"], INNER) == "PERMISSION_DENIED"
    assert await scale(stubs["inner"], ADMIN) == "UNAUTHENTICATED"
    reply = await stubs["inner"].Status(pb.StatusRequest(), metadata=token_metadata(INNER), timeout=10)
    assert reply.act == "none"


def test_every_method_of_the_controller_is_either_for_processes_or_an_act():
    """A new one must be put in one of the lists before anybody can call it."""
    methods = {one.name for one in pb.DESCRIPTOR.services_by_name["Controller"].methods}
    assert methods == INNER_METHODS | READS | ACTS and {"Router"} == INNER_METHODS & ACTS


async def test_inside_learned_weights_can_only_be_taken_back(stubs, audit):
    async def router(name, token, act):
        ask = pb.RouterAct(act=act, weights=b"w" * 1000)
        try:
            return (await stubs[name].Router(ask, metadata=token_metadata(token), timeout=10)).stage
        except grpc.aio.AioRpcError as exc:
            return exc.code().name

    assert [await router("inner", INNER, act) for act in ("rollback", "shadow", "canary")] == [
        "rollback",
        "PERMISSION_DENIED",
        "PERMISSION_DENIED",
    ]
    assert await router("inner", "wrong", "rollback") == "UNAUTHENTICATED"
    assert await router("admin", ADMIN, "shadow") == "shadow"
    assert audit() == [("owner", "Router", "done", {"act": "shadow"})]
