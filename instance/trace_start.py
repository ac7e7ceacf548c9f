"""Switches tracing on in a process whose configuration says so."""

from __future__ import annotations

from collections.abc import Callable

from shoal.proto import tracing
from shoal.proto.config import TracingConfig
from shoal.proto.errors import StartFailed


def start_tracing(config: TracingConfig, service: str, name: str) -> Callable[[], None]:
    """Returns what ends it and sends the rest. Raises StartFailed where it is asked for and not installed."""
    if not config.endpoint:
        return lambda: None
    try:
        from shoal.instance.otel import OtelTracer, otlp  # noqa: PLC0415 - an optional dependency
    except ImportError as exc:
        raise StartFailed(f"tracing.endpoint: needs the extra 'tracing' of this package ({exc.name})") from None
    tracer = OtelTracer(otlp(config.endpoint), service=service, name=name, sample=config.sample)
    tracing.send_to(tracer)
    return tracer.close


__all__ = ["start_tracing"]
