"""Inside, both sides must be of the cluster's authority, over real sockets; a new certificate is taken up without a
restart.
"""

import asyncio

import grpc
import pytest

from shoal.cluster.cli.certs import write_certs
from shoal.instance.auth import token_metadata
from shoal.instance.gate import AsyncGate
from shoal.instance.inner_tls import PLAIN, InnerTls
from shoal.proto.errors import StartFailed
from shoal.proto.security import TlsConfig
from shoal.proto.v1 import controller_pb2 as pb
from shoal.proto.v1 import controller_pb2_grpc as rpc

TOKEN = "token"


class Service(rpc.FrontendServicer):
    async def Story(self, request, context):
        return pb.StoryReply()


def made(folder):
    write_certs(folder, hosts=["localhost"])
    return InnerTls(folder / "inner.pem", folder / "inner-key.pem", folder / "inner-ca.pem")


@pytest.fixture
async def serving():
    servers = []

    async def serve(tls):
        server = grpc.aio.server(interceptors=[AsyncGate(TOKEN)])
        rpc.add_FrontendServicer_to_server(Service(), server)
        port = tls.bind(server, "127.0.0.1:0")
        await server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield serve
    for server in servers:
        await server.stop(None)


async def answer(channel):
    """A name of a status."""
    async with channel:
        try:
            await rpc.FrontendStub(channel).Story(pb.StoryRequest(), metadata=token_metadata(TOKEN), timeout=3)
            return "OK"
        except grpc.aio.AioRpcError as exc:
            return exc.code().name


async def test_only_who_shows_a_certificate_of_the_authority_gets_in(serving, tmp_path):
    ours, theirs = made(tmp_path / "ours"), made(tmp_path / "theirs")
    address = await serving(ours)
    assert await answer(ours.aio_channel(address)) == "OK"
    assert await answer(PLAIN.aio_channel(address)) == "UNAVAILABLE"
    assert await answer(theirs.aio_channel(address)) == "UNAVAILABLE"
    assert await answer(InnerTls(theirs.cert, theirs.key, ours.ca).aio_channel(address)) == "UNAVAILABLE"
    named = [("grpc.ssl_target_name_override", "shoal-inner")]
    nameless = grpc.ssl_channel_credentials(root_certificates=ours.ca.read_bytes())
    assert await answer(grpc.aio.secure_channel(address, nameless, options=named)) == "UNAVAILABLE"


async def test_a_listener_without_our_certificate_hears_no_token(serving, tmp_path):
    ours, theirs = made(tmp_path / "ours"), made(tmp_path / "theirs")
    assert await answer(ours.aio_channel(await serving(theirs))) == "UNAVAILABLE"
    assert await answer(ours.aio_channel(await serving(PLAIN))) == "UNAVAILABLE"


async def test_a_certificate_for_another_name_is_not_enough(serving, tmp_path):
    ours = made(tmp_path / "ours")
    edge = InnerTls(tmp_path / "ours/edge.pem", tmp_path / "ours/edge-key.pem", ours.ca)
    assert await answer(ours.aio_channel(await serving(edge))) == "UNAVAILABLE"


async def test_new_files_are_taken_up_by_a_running_listener(serving, tmp_path):
    old, new = made(tmp_path / "old"), made(tmp_path / "new")
    address = await serving(old)
    for name in ("inner.pem", "inner-key.pem", "inner-ca.pem"):
        (tmp_path / "new" / name).replace(tmp_path / "old" / name)
    fresh = InnerTls(*(tmp_path / "old" / name for name in ("inner.pem", "inner-key.pem", "inner-ca.pem")))
    async with asyncio.timeout(20):
        while await answer(fresh.aio_channel(address)) != "OK":
            await asyncio.sleep(0.05)
    assert new.cert != fresh.cert


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StartFailed, match=r"gone\.pem"):
        InnerTls(*[tmp_path / "gone.pem"] * 3).channel("127.0.0.1:1")


def test_without_certificates_it_is_plain():
    assert InnerTls.of(TlsConfig()) == PLAIN
