"""Reads the whole body of a request before anybody works on it: bounded in bytes, in time, and over all requests of a
frontend together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from shoal.proto.errors import ClientFault, Overloaded
from shoal.proto.limits import LimitsConfig

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
RETRY_AFTER_S = 1.0


class BodyTooLarge(ClientFault):
    http_status = 413


class BodyTooSlow(ClientFault):
    http_status = 408


class ClientGone(ClientFault):
    """Nobody is there to hear it."""


class BodyReader:
    """Owns the count of bytes that are being read; one per frontend."""

    def __init__(self, limits: LimitsConfig) -> None:
        self.limits, self.reading_bytes = limits, 0

    async def read(self, receive: Receive) -> bytes:
        """Raises BodyTooLarge, BodyTooSlow, Overloaded or ClientGone."""
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.body_s):
                while await self._more(receive, body):
                    pass
        except TimeoutError:
            raise BodyTooSlow(f"body: must arrive within {self.limits.body_s:g} s") from None
        finally:
            self.reading_bytes -= len(body)
        return bytes(body)

    async def _more(self, receive: Receive, body: bytearray) -> bool:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("the client left while it sent its request")
        piece = message.get("body", b"")
        body += piece
        self.reading_bytes += len(piece)
        if len(body) > self.limits.body_bytes:
            raise BodyTooLarge(f"body: must be at most {self.limits.body_bytes} bytes, given more")
        if self.reading_bytes > self.limits.reading_bytes:
            raise Overloaded("too many bodies are being read", retry_after_s=RETRY_AFTER_S)
        return bool(message.get("more_body", False))


def replayed(body: bytes, receive: Receive) -> Receive:
    """`body` once, whole; then whatever else comes, which is that the client left."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return first.pop() if first else await receive()

    return replay


__all__ = ["BodyReader", "BodyTooLarge", "BodyTooSlow", "ClientGone", "Receive", "replayed"]
