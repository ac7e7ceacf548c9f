"""A stand-in for an OpenAI server: token n of an answer is n, and the model's name says how it misbehaves."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from tests.tools.web import serving


@dataclass
class FakeOpenAI:
    """Counts what it saw. `usage` False: a server that does not know continuous_usage_stats."""

    url: str = ""
    token_s: float = 0.0
    usage: bool = True
    per_chunk: int = 1
    refusals: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    left: int = 0

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "whole"}]})

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        if body["model"].startswith("http_"):
            return web.Response(status=int(body["model"][5:]), text="no")
        if self.refusals:
            self.refusals -= 1
            return web.Response(status=429, headers={"Retry-After": "0"})
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            return await self.stream(request, body)
        except (ConnectionError, asyncio.CancelledError):
            self.left += 1
            raise
        finally:
            self.running -= 1

    async def stream(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream", "x-shoal-instance": "i0"})
        await reply.prepare(request)
        due = body["max_tokens"]
        stop_at = {"cut": due // 2, "short": due - 1, "mute": 0}.get(body["model"], due)
        for start in range(0, stop_at, self.per_chunk):
            await asyncio.sleep(self.token_s)
            ids = list(range(start, min(start + self.per_chunk, stop_at)))
            await reply.write(self.event(body, ids, last=ids[-1] == stop_at - 1))
            if body["model"] == "error" and start == 1:
                await reply.write(b'data: {"error": {"message": "engine gone"}}\n\n')
            if body["model"] == "garbage":
                await reply.write(b"data: {nonsense\n\n")
        if body["model"] in ("cut", "mute"):
            assert request.transport is not None
            if body["model"] == "mute":
                await asyncio.sleep(60)
            request.transport.abort()
            return reply
        if body["model"] != "endless":
            await reply.write(b"data: [DONE]\n\n")
        return reply

    def event(self, body: dict[str, Any], ids: list[int], *, last: bool) -> bytes:
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length" if last else None}
        text = "x" * len(ids)
        choice |= {"delta": {"content": text}} if "messages" in body else {"text": text}
        if body.get("return_token_ids"):
            choice["token_ids"] = ids
        event: dict[str, Any] = {"choices": [choice]}
        if self.usage:
            event["usage"] = {"prompt_tokens": len(body.get("prompt", "12")), "completion_tokens": ids[-1] + 1}
        return f"data: {json.dumps(event)}\n\n".encode()


@pytest.fixture
async def server() -> AsyncIterator[FakeOpenAI]:
    fake = FakeOpenAI()
    app = web.Application()
    app.router.add_get("/v1/models", fake.models)
    app.router.add_post("/v1/completions", fake.answer)
    app.router.add_post("/v1/chat/completions", fake.answer)
    async with serving(app) as fake.url:
        yield fake
