"""All spans of this process, kept in memory while the block lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shoal.instance.otel import OtelTracer
from shoal.proto import tracing


class Spans:
    """Ended ones, in the order in which they ended."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def __iter__(self) -> Iterator[ReadableSpan]:
        return iter(self._exporter.get_finished_spans())

    @property
    def names(self) -> list[str]:
        return [span.name for span in self]

    def parents(self) -> set[tuple[str, str]]:
        """(name, name of what it hangs below); "" where that is not of this process."""
        by_id = {span.context.span_id: span.name for span in self}
        return {(span.name, by_id.get(span.parent.span_id, "") if span.parent else "none") for span in self}


@contextmanager
def recorded(sample: float = 1.0) -> Iterator[Spans]:
    exporter = InMemorySpanExporter()
    tracer = OtelTracer(SimpleSpanProcessor(exporter), service="test", name="t", sample=sample)
    tracing.send_to(tracer)
    try:
        yield Spans(exporter)
    finally:
        tracing.send_to(None)
        tracer.close()


__all__ = ["Spans", "recorded"]
