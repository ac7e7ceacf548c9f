"""A link ends once, says why, and leaves nothing behind; frames arrive in order meanwhile."""

import asyncio
import time

import grpc
import pytest

from shoal.bench.fault_proxy import FaultProxy, Faults
from shoal.cluster import link as link_module
from shoal.cluster.link import Link, LinkEnd, hello_of
from shoal.proto.errors import Unavailable, VersionMismatch
from shoal.proto.seal import Sealer
from shoal.proto.v1 import instance_pb2 as pb
from shoal.proto.v1 import instance_pb2_grpc as rpc
from tests.tools.mini_cluster import TOKEN, MiniCluster, eventually

WELCOME = pb.Down(welcome=pb.Welcome(instance_id="x", sealed=True))


class Scripted(rpc.InstanceServicer):
    """Says `frames` (a number: waits so long; an exception status: ends with it) and remembers what it hears."""

    def __init__(self, *frames):
        self.frames, self.heard = frames, []

    async def Attach(self, request_iterator, context):
        async def listen():
            async for frame in request_iterator:
                self.heard.append(frame)

        listening, sealer = asyncio.create_task(listen()), Sealer()
        try:
            for frame in self.frames:
                if isinstance(frame, float):
                    await asyncio.sleep(frame)
                elif isinstance(frame, grpc.StatusCode):
                    await context.abort(frame, "words")
                else:
                    if frame.seal == 0:
                        sealer.seal(frame)
                    yield frame
                    frame.seal = 0  # for the next stream
        finally:
            listening.cancel()


@pytest.fixture
async def serve():
    servers = []

    async def start(servicer):
        server = grpc.aio.server()
        rpc.add_InstanceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        servers.append(server)
        return port

    yield start
    for server in servers:
        await server.stop(None)


class Ends:
    """A link with what it said."""

    def __init__(self, port, *, version="0.32.0", on_frame=None):
        self.frames, self.ends = [], []
        take = on_frame or (lambda link, frame: self.frames.append(frame))
        hello = hello_of("f", version)
        self.link = Link(f"127.0.0.1:{port}", TOKEN, hello, take, lambda link, why: self.ends.append(why))

    async def until_end(self):
        await eventually(lambda: bool(self.ends))
        await self.link.close()
        await asyncio.sleep(0.02)
        assert len(self.ends) == 1
        return self.ends[0]


def report(step):
    return pb.Down(report=pb.StepReport(step=step))


async def test_frames_arrive_in_order_and_hello_goes_first(serve):
    server = Scripted(WELCOME, *(report(n) for n in range(100)), 30.0)
    one = Ends(await serve(server))
    assert (await one.link.open()).instance_id == one.link.instance_id == "x"
    one.link.submit(pb.Submit(request_id="r"))
    one.link.send(pb.Up(abort=pb.Abort(request_ids=["r"])))
    one.link.start()
    await eventually(lambda: len(one.frames) == 100 and len(server.heard) == 3)
    assert [frame.report.step for frame in one.frames] == list(range(100))
    assert [frame.WhichOneof("frame") for frame in server.heard] == ["hello", "submit", "abort"]
    await one.link.close()
    assert one.ends == [], "whoever closes it knows"


async def test_acknowledgements_are_counted_in_order_and_never_twice(serve):
    one = Ends(0)
    for request_id in "abc":
        one.link.submit(pb.Submit(request_id=request_id))
    taken = [one.link.take_acknowledged(n) for n in (0, 2, 2, 1, 99, 99)]
    assert taken == [[], ["a", "b"], [], [], ["c"], []]


DAMAGED = pb.Down(welcome=pb.Welcome(instance_id="x", sealed=True), number=1, seal=1)
CARELESS = pb.Down(welcome=pb.Welcome(instance_id="x"))


@pytest.mark.parametrize("first", [report(1), grpc.StatusCode.UNAUTHENTICATED, None, DAMAGED, CARELESS])
async def test_a_stream_without_a_sealed_welcome_is_no_link(serve, first):
    one = Ends(await serve(Scripted(*filter(None, [first]))))
    with pytest.raises(Unavailable):
        await one.link.open()


async def test_nobody_there_is_unavailable_and_so_is_one_that_says_nothing(serve):
    with pytest.raises(Unavailable):
        await Ends(await serve(Scripted(30.0))).link.open(timeout_s=0.2)
    async with FaultProxy("127.0.0.1", 1) as dead:
        with pytest.raises(Unavailable):
            await Ends(dead.port).link.open()


async def test_another_version_is_said_to_be_one():
    async with MiniCluster(1) as cluster:
        port = cluster.instances["i0"].proxy.port
        with pytest.raises(VersionMismatch, match=r"0\.31"):
            await Ends(port, version="0.31.0").link.open()


@pytest.mark.parametrize(
    ("last", "why"),
    [
        ((), LinkEnd.CLOSED),
        ((grpc.StatusCode.RESOURCE_EXHAUSTED,), LinkEnd.CLOSED),
    ],
)
async def test_an_end_in_words_is_no_crash(serve, last, why):
    one = Ends(await serve(Scripted(WELCOME, report(1), *last)))
    await one.link.open()
    one.link.start()
    assert await one.until_end() is why
    assert len(one.frames) == 1


async def test_an_instance_that_is_stopped_did_not_crash():
    async with MiniCluster(1) as cluster:
        one = Ends(cluster.instances["i0"].proxy.port)
        await one.link.open()
        one.link.start()
        await cluster.instances["i0"].server.stop()
        assert await one.until_end() is LinkEnd.CLOSED


async def test_a_reset_connection_is_a_crash(serve):
    async with FaultProxy("127.0.0.1", await serve(Scripted(WELCOME, 30.0))) as proxy:
        one = Ends(proxy.port)
        await one.link.open()
        one.link.start()
        await proxy.drop_all()
        assert await one.until_end() is LinkEnd.CRASHED


async def test_silence_ends_a_link_whether_the_peer_or_the_line_is_silent(serve):
    async with FaultProxy("127.0.0.1", await serve(Scripted(WELCOME, 30.0))) as proxy:
        frozen, cut = Ends(proxy.port), Ends(proxy.port)
        for one in (frozen, cut):
            await one.link.open()
        frozen.link.start()
        assert await frozen.until_end() is LinkEnd.SILENT
        proxy.down.faults = proxy.up.faults = Faults(black_hole=True)
        cut.link.heard_s += 3600  # so that only gRPC's own ping can tell
        cut.link.start()
        assert await cut.until_end() is LinkEnd.SILENT


async def test_a_frontend_that_slept_does_not_take_its_own_silence_for_the_peers(monkeypatch):
    monkeypatch.setattr(link_module, "CHANNEL_OPTIONS", ())  # gRPC's own pings are another judge
    async with MiniCluster(1) as cluster:
        one = Ends(cluster.instances["i0"].proxy.port)
        await one.link.open()
        one.link.start()
        for _ in range(2):
            await eventually(lambda: len(one.frames) > 0)
            one.frames.clear()
            time.sleep(1.2 * link_module.SILENCE_S)  # the whole loop, as if the process had been stopped
        await eventually(lambda: len(one.frames) > 0)
        assert one.ends == []
        await one.link.close()


@pytest.mark.parametrize("bad", ["raises", "cannot be parsed"])
async def test_a_frame_that_cannot_be_taken_in_ends_the_link_at_once(serve, bad, caplog):
    def on_frame(link, frame):
        raise ValueError("nonsense")

    one = Ends(await serve(Scripted(WELCOME, report(1), 30.0)), on_frame=on_frame)
    await one.link.open()
    if bad == "cannot be parsed":
        read = one.link.call.read

        async def broken():
            await read()

        one.link.call.read = broken
    one.link.start()
    assert await one.until_end() is LinkEnd.CLOSED
    assert "cannot be taken in" in caplog.text


async def test_an_instance_that_does_not_take_in_what_it_is_sent_is_given_up(serve, monkeypatch, caplog):
    monkeypatch.setattr(link_module, "UNHEARD_S", 1.0)
    heard = [pb.Down(report=pb.StepReport(step=n, heard=min(n, 2))) for n in range(1, 200)]
    one = Ends(await serve(Scripted(WELCOME, *(part for frame in heard for part in (frame, 0.05)), 30.0)))
    await one.link.open()
    one.link.submit(pb.Submit(request_id="taken in"))
    one.link.start()
    await eventually(lambda: len(one.frames) > 4)
    assert one.ends == []
    one.link.submit(pb.Submit(request_id="lost"))
    assert await one.until_end() is LinkEnd.CLOSED
    assert "frame 3 was not taken in" in caplog.text


async def test_a_lost_frame_ends_the_link_at_the_next_one(serve, caplog):
    lost = report(2)
    one = Ends(await serve(Scripted(WELCOME, report(1), lost, report(3), 30.0)))
    await one.link.open()
    read = one.link.call.read

    async def lossy():
        frame = await read()
        return await read() if frame.report.step == 2 else frame

    one.link.call.read = lossy
    one.link.start()
    assert await one.until_end() is LinkEnd.CLOSED
    assert [frame.report.step for frame in one.frames] == [1]
    assert "frame 4 came, 3 is due" in caplog.text


async def test_giving_up_on_opening_leaves_no_connection(serve):
    async with FaultProxy("127.0.0.1", await serve(Scripted(30.0))) as proxy:
        one = Ends(proxy.port)
        opening = asyncio.create_task(one.link.open())
        await eventually(lambda: proxy.connections == 1)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        del opening  # its exception holds the frames that hold the call
        await eventually(lambda: not proxy._tasks)


@pytest.mark.parametrize("end", ["closed here", "closed there", "cut"])
async def test_a_link_that_ended_leaves_no_connection(serve, end):
    """gRPC keeps one open for as long as anybody holds on to the call."""
    async with FaultProxy("127.0.0.1", await serve(Scripted(WELCOME, 0.2 if end == "closed there" else 30.0))) as proxy:
        one = Ends(proxy.port)
        await one.link.open()
        one.link.start()
        if end == "closed here":
            await one.link.close()
        elif end == "cut":
            one.link.heard_s -= 3600
        await eventually(lambda: not proxy._tasks)
