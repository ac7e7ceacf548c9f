"""Spans into OpenTelemetry: one provider per process, batches to a collector by OTLP over HTTP. Needs the extra
`tracing`.

The W3C text of the parent decides whether a trace is recorded; a request without one is sampled by `tracing.sample`.
"""

from __future__ import annotations

import time
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shoal.proto import tracing

_W3C = TraceContextTextMapPropagator()


class OtelSpan:
    """See `tracing.Span`."""

    def __init__(self, span: Any) -> None:
        self._span = span
        context = span.get_span_context()
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"

    def note(self, **facts: Any) -> None:
        if self._span.is_recording():  # not sampled, or ended: the SDK would complain
            self._span.set_attributes({f"shoal.{name}": value for name, value in facts.items()})

    def event(self, name: str) -> None:
        if self._span.is_recording():
            self._span.add_event(name)

    def end(self) -> None:
        if self._span.is_recording():
            self._span.end()


class OtelTracer:
    """Owns the provider until `close`."""

    def __init__(self, processor: SpanProcessor, *, service: str, name: str, sample: float = 1.0) -> None:
        resource = Resource.create({"service.name": f"shoal-{service}", "service.instance.id": name})
        self._provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(sample)), resource=resource)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("shoal")

    def begin(self, name: str, parent: str, *, began_s_ago: float, **facts: Any) -> OtelSpan:
        context = _W3C.extract({tracing.HEADER: parent})
        start_ns = time.time_ns() - int(1e9 * began_s_ago)
        span = OtelSpan(self._tracer.start_span(name, context, start_time=start_ns))
        span.note(**facts)
        return span

    def close(self) -> None:
        self._provider.shutdown()


def otlp(endpoint: str) -> SpanProcessor:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - only with a collector
        OTLPSpanExporter,
    )

    return BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint))


__all__ = ["OtelSpan", "OtelTracer", "otlp"]
