"""Sends one request at a time to an OpenAI-compatible server and writes down when what arrived. The only bench file
that speaks HTTP.

Every way in which a request can end is a kind in the record (see record.py); `run` raises nothing but cancellation.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import aiohttp
import msgspec

from shoal.bench.openai_stream import Chunk, OpenAIStream
from shoal.bench.record import Record
from shoal.bench.workload import PromptMaker
from shoal.proto.errors import BadMessage, Unavailable

KEEP_ALIVE_S = 3.0  # below the servers' usual 5 s, so that a connection is never reused while the server closes it
FAILED_FINISHES = frozenset({"abort", "error"})
CONNECT_ERRORS = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)


@dataclass(frozen=True, slots=True)
class HttpTarget:
    """Where and how to ask. `keys` maps tenants to API keys; `extra` is laid over each body, `headers` go with it."""

    url: str
    model: str
    chat: bool = False
    keys: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    request_timeout_s: float = 600.0
    max_retries: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def endpoint(self) -> str:
        return f"{base_url(self.url)}/v1/{'chat/completions' if self.chat else 'completions'}"


def base_url(url: str) -> str:
    return url.rstrip("/").removesuffix("/v1")


class HttpClient:
    """Owns the connections. One for a whole run."""

    def __init__(self, target: HttpTarget, prompts: PromptMaker) -> None:
        self.target, self.prompts = target, prompts

    async def __aenter__(self) -> HttpClient:
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=self.target.request_timeout_s, sock_connect=10.0),
            read_bufsize=1 << 20,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.close()

    async def run(self, record: Record) -> None:
        body, headers = self.body(record), self._headers(record)
        record.sent_s = time.perf_counter()
        try:
            while (wait_s := await self._attempt(record, body, headers)) is not None:
                record.retries += 1
                await asyncio.sleep(wait_s)
        except CONNECT_ERRORS as exc:
            record.fail(time.perf_counter(), "connect", str(exc))
        except TimeoutError:
            record.fail(time.perf_counter(), "timeout", f"after {self.target.request_timeout_s} s")
        except BadMessage as exc:
            record.fail(time.perf_counter(), "bad_reply", str(exc))
        except (aiohttp.ClientError, ConnectionError) as exc:
            record.fail(time.perf_counter(), "disconnect", f"{type(exc).__name__}: {exc}")

    async def _attempt(self, record: Record, body: bytes, headers: dict[str, str]) -> float | None:
        """None when it has ended; else the seconds after which the server asked us to come again."""
        async with self._http.post(self.target.endpoint, data=body, headers=headers) as reply:
            record.instance = reply.headers.get("x-shoal-instance", "")
            if reply.status == 200:
                await self._read(record, reply)
                return None
            text = (await reply.content.read(2000)).decode(errors="replace")
            record.retry_after_s = _retry_after_s(reply)
            wait_s = record.retry_after_s if record.retries < self.target.max_retries else None
            if wait_s is None:
                record.fail(time.perf_counter(), f"http_{reply.status}", text)
            return wait_s

    async def _read(self, record: Record, reply: aiohttp.ClientResponse) -> None:
        stream, leave_after = OpenAIStream(), record.request.hang_up_after
        if leave_after == 0:
            return _leave(record, reply)
        async for data in reply.content.iter_any():
            now_s = time.perf_counter()
            for chunk in stream.feed(data):
                note(record, chunk, now_s)
                if leave_after is not None and record.output_tokens >= leave_after:
                    return _leave(record, reply)
                if chunk.error:
                    return record.fail(now_s, "stream_error", chunk.error)
        settle(record, stream.done)

    def body(self, record: Record) -> bytes:
        request = record.request
        body: dict[str, Any] = {
            "model": self.target.model,
            "max_tokens": request.output_tokens,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "temperature": 0.0,
            "ignore_eos": True,
        }
        prompt = self.prompts.prompt(request)
        if self.target.chat:
            body["messages"] = [{"role": "user", "content": " ".join(map(str, prompt))}]
        else:
            body["prompt"] = prompt
        if request.kind.priority:
            body["priority"] = request.kind.priority
        return msgspec.json.encode({**body, **self.target.extra})

    def _headers(self, record: Record) -> dict[str, str]:
        headers = {"Content-Type": "application/json", **self.target.headers}
        key = self.target.keys.get(record.request.kind.tenant)
        return {**headers, "Authorization": f"Bearer {key}"} if key else headers


def note(record: Record, chunk: Chunk, now_s: float) -> None:
    if chunk.tokens:
        record.add_chunk(now_s, chunk.tokens)
    record.token_ids.extend(chunk.token_ids)
    if chunk.text:
        record.text.append(chunk.text)
    record.finish_reason = chunk.finish_reason or record.finish_reason
    record.prompt_tokens = chunk.prompt_tokens or record.prompt_tokens
    record.cached_tokens = chunk.cached_tokens or record.cached_tokens


def settle(record: Record, end_mark_seen: bool) -> None:
    """The stream ended by itself: was it whole?"""
    now_s = time.perf_counter()
    due, got = record.request.output_tokens, record.output_tokens
    if record.finish_reason in FAILED_FINISHES:
        record.fail(now_s, "stream_error", f"finish_reason {record.finish_reason}")
    elif not end_mark_seen or got == 0:
        record.fail(
            now_s, "truncated", f"ended after {got} of {due} tokens, end mark {'seen' if end_mark_seen else 'missing'}"
        )
    elif record.finish_reason == "length" and got < due:
        record.fail(now_s, "truncated", f"finished by length after {got} of {due} tokens")
    else:
        record.complete(now_s)


def _leave(record: Record, reply: aiohttp.ClientResponse) -> None:
    reply.close()  # closes the connection; merely leaving the block could wait for the rest
    record.hang_up(time.perf_counter())


def _retry_after_s(reply: aiohttp.ClientResponse) -> float | None:
    if reply.status not in (429, 503):
        return None
    try:
        return max(0.0, float(reply.headers["Retry-After"]))
    except (KeyError, ValueError):
        return None


async def first_model(url: str, key: str | None) -> str:
    """The name of the first model that the server lists. Raises Unavailable."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10), headers=headers) as http:
            async with http.get(f"{base_url(url)}/v1/models") as reply:
                reply.raise_for_status()
                return str((await reply.json())["data"][0]["id"])
    except (aiohttp.ClientError, TimeoutError, LookupError, TypeError, ValueError) as exc:
        raise Unavailable(f"no model list at {url}: {type(exc).__name__}: {exc}") from None


__all__ = ["HttpClient", "HttpTarget", "base_url", "first_model", "note", "settle"]
