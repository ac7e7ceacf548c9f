"""Reads the bytes of an OpenAI event stream, completions or chat, piece by piece. Pure: bytes in, chunks out.

Tokens are counted by the running usage where the server gives it (vLLM's `continuous_usage_stats`), by token ids
where it returns them, else one per chunk that carries anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from shoal.proto.errors import BadMessage

MAX_EVENT_BYTES = 16 << 20


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    tool_calls: Any = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None
    token_ids: list[int] | None = None


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one event added. `tokens` is 0 for bookkeeping events: role, usage, finish."""

    tokens: int = 0
    token_ids: tuple[int, ...] = ()
    text: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    error: str = ""


@dataclass(slots=True)
class OpenAIStream:
    """One stream's reader. `done` is True after the end mark."""

    done: bool = False
    _rest: bytes = b""
    _counted: int = 0
    _decoder: msgspec.json.Decoder[_Event] = field(default_factory=lambda: msgspec.json.Decoder(_Event))

    def feed(self, data: bytes) -> list[Chunk]:
        """Raises BadMessage."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_EVENT_BYTES:
            raise BadMessage(f"stream: one event of more than {MAX_EVENT_BYTES} bytes")
        return [chunk for line in lines if (chunk := self._line(line.rstrip(b"\r"))) is not None]

    def _line(self, line: bytes) -> Chunk | None:
        if not line.startswith(b"data:"):
            return None
        body = line[5:].strip()
        if body == b"[DONE]":
            self.done = True
            return None
        try:
            return self._chunk(self._decoder.decode(body))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            raise BadMessage(f"stream: {exc}: {body[:120]!r}") from None

    def _chunk(self, event: _Event) -> Chunk:
        if event.error is not None:
            return Chunk(error=str(event.error))
        usage = event.usage or _Usage()
        details = usage.prompt_tokens_details or _PromptDetails()
        choice = event.choices[0] if event.choices else _Choice()
        delta = choice.delta or _Delta()
        text = choice.text or delta.content or delta.reasoning or ""
        tokens = self._count(usage.completion_tokens, choice.token_ids, bool(text or delta.tool_calls))
        return Chunk(
            tokens,
            tuple(choice.token_ids or ()),
            text,
            choice.finish_reason or "",
            usage.prompt_tokens,
            details.cached_tokens or 0,
        )

    def _count(self, running_total: int | None, token_ids: list[int] | None, carries: bool) -> int:
        if running_total is not None:
            tokens = max(0, running_total - self._counted)
        else:
            tokens = len(token_ids) if token_ids is not None else int(carries)
        self._counted += tokens
        return tokens


__all__ = ["MAX_EVENT_BYTES", "Chunk", "OpenAIStream"]
