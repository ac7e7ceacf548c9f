"""An engine and a cluster without vLLM behind the gRPC API, scripted by the tests."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from shoal.cluster.grpc_api.ports import Models, Prompt
from shoal.cluster.grpc_api.sampling import EngineFacts
from shoal.cluster.grpc_api.server import start_server
from shoal.cluster.grpc_api.servicer import InferenceServicer
from shoal.cluster.request_context import current_request
from shoal.proto.errors import InvalidArgument, Unauthenticated
from shoal.proto.limits import LimitsConfig

FACTS = EngineFacts(max_model_len=100, vocabulary=256, max_logprobs=20, vllm_version="0.32.0")
KEYS = {"Bearer red-key": "red", "Bearer blue-key": "blue"}
RED = (("authorization", "Bearer red-key"),)
BLUE = (("authorization", "Bearer blue-key"),)


def authenticate(header):
    if header not in KEYS:
        raise Unauthenticated("authorization: no such key")
    return KEYS[header]


def piece(tokens=(), text="", finish=None, stop=None, choice=0, logprobs=None):
    return SimpleNamespace(
        index=choice, token_ids=list(tokens), text=text, finish_reason=finish, stop_reason=stop, logprobs=logprobs
    )


def output(*pieces, finished=None, prompt_logprobs=None, cached=0, prompt=(1, 2, 3)):
    done = finished if finished is not None else any(p.finish_reason for p in pieces)
    return SimpleNamespace(
        prompt_token_ids=list(prompt),
        prompt_logprobs=prompt_logprobs,
        outputs=list(pieces),
        finished=done,
        num_cached_tokens=cached,
    )


def letters(text, finish="length"):
    """One output per letter, whose token id is its code point."""
    outputs = [output(piece([ord(c)], c)) for c in text]
    outputs[-1].outputs[0].finish_reason, outputs[-1].finished = finish, True
    return outputs


@dataclass
class StubEngine:
    """Plays `script`: outputs, exceptions to raise, or awaitable functions to run in between."""

    script: list[Any] = field(default_factory=lambda: letters("hello"))
    seen: list[Any] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def facts(self):
        return FACTS

    async def render(self, prompt):
        if prompt == "unrenderable":
            raise InvalidArgument("prompt", limit="renderable", given=prompt)
        tokens = list(prompt.encode()) if isinstance(prompt, str) else list(prompt)
        return Prompt(len(tokens), tokens)

    async def generate(self, prompt, sampling, engine_id, adapter, priority):
        context = current_request.get()
        self.seen.append(
            SimpleNamespace(
                prompt=prompt,
                sampling=sampling,
                engine_id=engine_id,
                adapter=adapter,
                priority=priority,
                context=context,
            )
        )
        context.instance = "i0"
        try:
            for step in self.script:
                if isinstance(step, BaseException):
                    raise step
                if callable(step):
                    step = await step(self)
                if step is not None:
                    yield step
        finally:
            self.ended.set()

    def replay(self, adopted, engine_id):
        return self.generate(None, adopted.sampling_params, engine_id, None, adopted.priority)

    def released_chars(self, adopted):
        return adopted.released_chars

    async def abort(self, engine_id):
        self.aborted.append(engine_id)


@dataclass
class StubCluster:
    orphans: dict[tuple[str, str], Any] = field(default_factory=dict)

    async def adopt(self, resume_key, tenant):
        return self.orphans.pop((resume_key, tenant), None)

    def instances_ready(self):
        return 2


def adopted(max_tokens=16, released_chars=len):
    return SimpleNamespace(
        sampling_params=SimpleNamespace(max_tokens=max_tokens), priority=3, released_chars=released_chars
    )


@asynccontextmanager
async def serving(engine, cluster=None, *, limits=None, adapters=None, port=0, **options):
    limits = limits or LimitsConfig()
    models = Models("base", lambda: adapters or {})
    servicer = InferenceServicer(engine, cluster or StubCluster(), limits, models)
    server = await start_server(servicer, authenticate, limits, port=port, **options)
    await server.set_serving(True)
    try:
        yield server
    finally:
        await server.stop(0)
