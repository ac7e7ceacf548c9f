"""One process's metrics page: where it listens. Owns nothing; the caller shuts the server down."""

from __future__ import annotations

from typing import Any

from prometheus_client import start_http_server
from prometheus_client.registry import Collector

PAGES = 64


def serve_page(registry: Collector, host: str, first_port: int) -> tuple[str, Any]:
    """URL and server, on the first free port from `first_port` on; 0: on any. Raises OSError where none is free."""
    for port in range(first_port, first_port + PAGES) if first_port else (0,):
        try:
            server, _thread = start_http_server(port, addr=host, registry=registry)  # type: ignore[arg-type]
            return f"http://{host}:{server.server_port}/metrics", server
        except OSError as exc:
            taken = exc
    raise OSError(f"metrics_port: {host}:{first_port} and the next {PAGES - 1} cannot be bound") from taken


__all__ = ["PAGES", "serve_page"]
