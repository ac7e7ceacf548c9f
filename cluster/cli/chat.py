"""`shoal chat`: a plain conversation over any OpenAI URL, words as they come. Standard library only."""

from __future__ import annotations

import argparse
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPResponse
from typing import Any

from shoal.cluster.rundir import find
from shoal.proto.errors import ShoalError, Unavailable

ANSWER_S = 600.0


class ServerSaid(ShoalError):
    """What the server answered instead of words."""


class Conversation:
    def __init__(self, url: str, key: str, model: str, max_tokens: int) -> None:
        self.url, self.key, self.max_tokens = url.rstrip("/").removesuffix("/v1"), key, max_tokens
        self.model = model or self._first_model()
        self.messages: list[dict[str, str]] = []

    def _open(self, path: str, body: dict[str, Any] | None = None) -> HTTPResponse:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        data = None if body is None else json.dumps(body).encode()
        try:
            answer: HTTPResponse = urllib.request.urlopen(
                urllib.request.Request(self.url + path, data, headers), timeout=ANSWER_S
            )
        except urllib.error.HTTPError as exc:
            with exc:
                raise ServerSaid(f"{exc.code}: {exc.read(2000).decode(errors='replace')}") from None
        except OSError as exc:
            raise Unavailable(f"{self.url}: {exc}") from None
        return answer

    def _first_model(self) -> str:
        with self._open("/v1/models") as answer:
            return str(json.load(answer)["data"][0]["id"])

    def say(self, text: str) -> Iterator[str]:
        """The words of the answer, which is then part of the conversation."""
        self.messages.append({"role": "user", "content": text})
        body = {"model": self.model, "messages": self.messages, "max_tokens": self.max_tokens, "stream": True}
        heard: list[str] = []
        try:
            with self._open("/v1/chat/completions", body) as answer:
                for word in deltas(answer):
                    heard.append(word)
                    yield word
        finally:
            self.messages.append({"role": "assistant", "content": "".join(heard)})


def deltas(lines: Iterator[bytes] | HTTPResponse) -> Iterator[str]:
    for line in lines:
        if not line.startswith(b"data: ") or line.strip() == b"data: [DONE]":
            continue
        event = json.loads(line[6:])
        if "error" in event:
            raise ServerSaid(str(event["error"].get("message") or event["error"]))
        for choice in event.get("choices", ()):
            if word := choice.get("delta", {}).get("content"):
                yield word


def chat(arguments: argparse.Namespace) -> int:
    run = find(arguments.name)
    state = run.state()
    url = arguments.url or (state.http if state and run.is_running() else "")
    if not url:
        raise Unavailable("not running; `shoal up` starts it, --url names another server")
    key = arguments.key or os.environ.get("SHOAL_API_KEY", "")
    conversation = Conversation(url, key, arguments.model, arguments.max_tokens)
    print(f"{conversation.model} at {conversation.url}; an empty line or Ctrl-D ends", file=sys.stderr)
    while text := _ask():
        try:
            for word in conversation.say(text):
                print(word, end="", flush=True)
        except ServerSaid as exc:
            print(f"[{exc}]", end="", file=sys.stderr)
        print(flush=True)
    return 0


def _ask() -> str:
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""


__all__ = ["Conversation", "chat", "deltas"]
