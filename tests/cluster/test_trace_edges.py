"""A client's trace goes in and out of the frontend, and one trace tells all that became of its request."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from shoal.cluster.request_context import RequestContext, called_by, open_request
from shoal.cluster.trace_edges import TracedCalls, TracedHttp
from shoal.proto import tracing
from shoal.proto.v1 import instance_pb2 as pb
from tests.tools.mini_cluster import MiniCluster, eventually
from tests.tools.spans import recorded

TRACE = "0af7651916cd43dd8448eb211c80319c"
CLIENT = f"00-{TRACE}-b7ad6b7169203331-01"
UNSAMPLED = f"00-{TRACE}-b7ad6b7169203331-00"


def is_sampled(traceparent: str) -> bool:
    """By its last field's lowest bit; the others say other things."""
    return bool(int(traceparent[-2:], 16) & 1)


async def ask(headers: list[tuple[bytes, bytes]], method: str = "POST") -> tuple[str, dict[bytes, bytes]]:
    """What the application saw as its caller, and the headers of the answer."""
    seen: list[str] = []
    sent: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        with open_request(RequestContext("r", "t")) as context:
            seen.append(context.traceparent)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": "/v1/completions", "headers": headers}
    await asyncio.create_task(TracedHttp(application)(scope, None, send))  # type: ignore[arg-type]
    return seen[0], dict(sent[0]["headers"])


async def test_the_clients_trace_comes_in_and_ours_goes_out() -> None:
    with recorded() as spans:
        inside, headers = await ask([(b"traceparent", CLIENT.encode())])
    assert inside == headers[b"traceparent"].decode()
    (span,) = spans
    assert inside == f"00-{TRACE}-{span.context.span_id:016x}-01"
    assert (span.name, span.attributes) == ("POST /v1/completions", {"shoal.status": 200})


async def test_a_client_without_a_trace_gets_one_and_one_that_is_not_sampled_stays_so() -> None:
    with recorded() as spans:
        fresh, _ = await ask([(b"traceparent", b"rubbish")])
        quiet, _ = await ask([(b"traceparent", UNSAMPLED.encode())])
    assert is_sampled(fresh) and TRACE not in fresh
    assert quiet.startswith(f"00-{TRACE}-") and not is_sampled(quiet)
    assert len(list(spans)) == 1


async def test_what_is_no_request_for_tokens_is_not_traced() -> None:
    with recorded() as spans:
        assert await ask([(b"traceparent", CLIENT.encode())], "GET") == ("", {})
    assert spans.names == []


async def test_a_grpc_call_brings_its_trace_and_hears_ours() -> None:
    async def generate(ask: bytes, context: Any) -> None:
        await context.write(called_by.get().encode())

    handlers = {"Generate": grpc.unary_stream_rpc_method_handler(generate)}
    server = grpc.aio.server(interceptors=[TracedCalls()])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shoal.v1.Inference", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        with recorded() as spans:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                call = channel.unary_stream("/shoal.v1.Inference/Generate")(b"", metadata=(("traceparent", CLIENT),))
                (inside,) = [reply.decode() async for reply in call]
                assert dict(await call.initial_metadata())["traceparent"] == inside
            assert inside.startswith(f"00-{TRACE}-")
            await eventually(lambda: spans.names == ["/shoal.v1.Inference/Generate"])
    finally:
        await server.stop(None)


async def test_one_trace_tells_of_frontend_instances_and_the_move_between_them() -> None:
    with recorded() as spans:
        async with MiniCluster(2) as cluster:
            root = tracing.begin("POST /v1/completions", CLIENT, root=True)
            called_by.set(root.traceparent)
            frontend = await cluster.frontend()
            run = asyncio.create_task(frontend.run("r", list(range(50)), 160))
            await eventually(lambda: "r" in frontend.replies)
            await frontend.replies["r"].wait_tokens(20)
            source = frontend.replies["r"].context.instance
            target = next(name for name in cluster.names if name != source)
            peers = pb.Peers(addresses={name: one.address for name, one in cluster.instances.items()})
            move = pb.Move(move_id="m", request_id="r", frontend="f0", target=target, reason="person")
            frontend.ask(source, peers=peers)
            frontend.ask(source, move=move)
            assert len((await run).tokens) == 160
            root.end()
            await eventually(lambda: spans.names.count("serve") == 2)
    assert {f"{span.context.trace_id:032x}" for span in spans} == {TRACE}
    assert spans.parents() == {
        ("POST /v1/completions", ""),
        ("queue", "POST /v1/completions"),
        ("stay", "POST /v1/completions"),
        ("serve", "stay"),
        ("migration", "serve"),
        ("arrival", "migration"),
        ("pause", "migration"),
    }
    stays = [span for span in spans if span.name == "stay"]
    assert [span.attributes["shoal.instance"] for span in stays if span.attributes] == [source, target]
    assert [event.name for event in stays[0].events] == ["first token"]
    (migration,) = [span for span in spans if span.name == "migration"]
    assert migration.attributes and migration.attributes["shoal.outcome"] == "committed"
