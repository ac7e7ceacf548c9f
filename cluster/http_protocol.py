"""uvicorn's HTTP protocol with what it lacks against slow and oversized clients: a deadline and a size for the headers
of a request, a deadline for the first one, and a number of connections.

Whoever breaks one is cut off; the other connections notice nothing. Bodies are the edge's (http_body.py).
"""

from __future__ import annotations

from asyncio import TimerHandle, Transport
from collections.abc import Callable
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shoal.proto.limits import LimitsConfig


class GuardedProtocol(HttpToolsProtocol):
    """One connection. Headers are open from the first byte of a request until the parser has them all."""

    def __init__(self, limits: LimitsConfig, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self.limits = limits
        self.headers_open = False
        self.header_bytes = 0
        self.header_deadline: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            transport.abort()
            return
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.headers_open:  # they did not end in this piece
            self.header_bytes += len(data)
            if self.header_bytes > self.limits.header_bytes:
                self._cut(f"Headers must be at most {self.limits.header_bytes} bytes.")
            elif self.header_deadline is None:
                words = f"Headers must arrive within {self.limits.header_s:g} s."
                self.header_deadline = self.loop.call_later(self.limits.header_s, self._cut, words)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.headers_open, self.header_bytes = True, 0

    def on_headers_complete(self) -> None:
        self._headers_over()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._headers_over()
        super().connection_lost(exc)

    def _headers_over(self) -> None:
        self.headers_open = False
        if self.header_deadline is not None:
            self.header_deadline.cancel()
            self.header_deadline = None

    def _cut(self, words: str) -> None:
        self._headers_over()
        if not self.transport.is_closing():
            self.send_400_response(words)


def guarded(limits: LimitsConfig) -> Callable[..., GuardedProtocol]:
    """For uvicorn's `http`."""
    return partial(GuardedProtocol, limits)


__all__ = ["GuardedProtocol", "guarded"]
