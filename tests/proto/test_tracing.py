"""Nothing is recorded, and nobody is asked, where tracing is off or a request is not traced."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from shoal.proto import tracing
from shoal.proto.tracing import NOTHING, Span


class Asked:
    """A tracer that only counts."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def begin(self, name: str, parent: str, *, began_s_ago: float, **facts: Any) -> Span:
        self.names.append(name)
        return NOTHING


@pytest.fixture
def asked() -> Iterator[Asked]:
    one = Asked()
    tracing.send_to(one)
    yield one
    tracing.send_to(None)


def test_without_a_tracer_every_span_is_the_same_nothing() -> None:
    span = tracing.begin("x", root=True, a=1)
    assert span is NOTHING and span.traceparent == "" and not tracing.is_on()
    span.note(a=2)
    span.event("e")
    span.end()


def test_only_an_edge_begins_a_trace(asked: Asked) -> None:
    assert tracing.begin("inside") is NOTHING
    tracing.begin("edge", root=True)
    tracing.begin("child", "00-x")
    assert asked.names == ["edge", "child"]
