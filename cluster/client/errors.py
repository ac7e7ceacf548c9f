"""How a call can fail, in one class: the status code says what kind, and whether asking again can help."""

from __future__ import annotations


class CallFailed(Exception):
    """`code` is the name of a gRPC status code. `delivered` tokens were yielded before."""

    def __init__(self, code: str, message: str, *, request_id: str = "", delivered: int = 0) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.request_id, self.delivered = code, message, request_id, delivered


__all__ = ["CallFailed"]
