"""Spans of a request, as every part of the cluster begins and ends them; where they go is another module's choice
(`instance/otel.py`). Until `send_to` was called nothing is recorded, and a span costs one call that returns NOTHING.

A trace travels as its W3C `traceparent` text: in HTTP headers, in gRPC metadata, in the messages of a request's life.
Only an edge begins one (`root=True`); everybody else adds to what it was given, or records nothing.
"""

from __future__ import annotations

from typing import Any, Protocol

HEADER = "traceparent"


class Span(Protocol):
    """Something that takes time. `traceparent`: for what it causes elsewhere. A second `end` does nothing."""

    traceparent: str

    def note(self, **facts: Any) -> None: ...

    def event(self, name: str) -> None: ...

    def end(self) -> None: ...


class _Nothing:
    traceparent = ""

    def note(self, **facts: Any) -> None:
        pass

    def event(self, name: str) -> None:
        pass

    def end(self) -> None:
        pass


class Tracer(Protocol):
    def begin(self, name: str, parent: str, *, began_s_ago: float, **facts: Any) -> Span: ...


NOTHING: Span = _Nothing()
_tracer: Tracer | None = None


def send_to(tracer: Tracer | None) -> None:
    """All spans of this process go there from now on; None: nowhere."""
    global _tracer
    _tracer = tracer


def is_on() -> bool:
    return _tracer is not None


def begin(name: str, parent: str = "", *, root: bool = False, began_s_ago: float = 0.0, **facts: Any) -> Span:
    """`facts` become attributes `shoal.NAME`: ids and numbers, never a prompt."""
    if _tracer is None or not (parent or root):
        return NOTHING
    return _tracer.begin(name, parent, began_s_ago=began_s_ago, **facts)


__all__ = ["HEADER", "NOTHING", "Span", "Tracer", "begin", "is_on", "send_to"]
