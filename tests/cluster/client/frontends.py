"""Scripted frontends on real ports: each call plays the next of its steps."""

from contextlib import asynccontextmanager

import grpc
from grpc import aio

from shoal.cluster.grpc_api.server import SERVICE
from shoal.proto.v1 import inference_pb2 as pb


class Frontend:
    """`steps`: one list per call; its members are replies to send, or (code name, words, retry_after_s) to end with."""

    def __init__(self, *steps):
        self.steps, self.calls, self.keys = list(steps), [], []
        self.left = 0

    async def play(self, request, context):
        self.calls.append(request)
        self.keys.append(dict(context.invocation_metadata()).get("authorization"))
        for step in self.steps.pop(0):
            if isinstance(step, tuple):
                code, words, retry_after_s = step
                trailing = () if retry_after_s is None else (("retry-after-s", str(retry_after_s)),)
                await context.abort(grpc.StatusCode[code], words, trailing_metadata=trailing)
            elif callable(step):
                try:
                    await step()
                finally:
                    self.left += 1
            else:
                yield step

    async def one(self, request, context):
        async for reply in self.play(request, context):
            return reply


@asynccontextmanager
async def listening(*frontends):
    servers, addresses = [], []
    for frontend in frontends:
        server = aio.server()
        kinds = {
            "Generate": (grpc.unary_stream_rpc_method_handler, frontend.play, pb.GenerateRequest),
            "Resume": (grpc.unary_stream_rpc_method_handler, frontend.play, pb.ResumeRequest),
            "Cancel": (grpc.unary_unary_rpc_method_handler, frontend.one, pb.CancelRequest),
            "GetModel": (grpc.unary_unary_rpc_method_handler, frontend.one, pb.GetModelRequest),
        }
        handlers = {
            name: kind(
                play, request_deserializer=message.FromString, response_serializer=lambda m: m.SerializeToString()
            )
            for name, (kind, play, message) in kinds.items()
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        addresses.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        await server.start()
        servers.append(server)
    try:
        yield addresses
    finally:
        for server in servers:
            await server.stop(0)
