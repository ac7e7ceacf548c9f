"""One process's metrics page: where it listens. Owns nothing; the caller shuts the server down.

Always in Prometheus' plain text format: the client library's OpenMetrics writes `vllm_` where vLLM says `vllm:`.
"""

from __future__ import annotations

from socketserver import ThreadingMixIn
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app
from prometheus_client.registry import Collector

PAGES = 64


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    timeout = 5  # of a client that says nothing

    def log_message(self, *_: Any) -> None:
        pass


def serve_page(registry: Collector, host: str, first_port: int) -> tuple[str, Any]:
    """URL and server, on the first free port from `first_port` on; 0: on any. Raises OSError where none is free."""
    pages = make_wsgi_app(registry)  # type: ignore[arg-type]

    def plain(environment: Any, start: Any) -> Any:
        return pages({**environment, "HTTP_ACCEPT": "text/plain"}, start)

    for port in range(first_port, first_port + PAGES) if first_port else (0,):
        try:
            server = make_server(host, port, plain, _Server, _Handler)
        except OSError as exc:
            taken = exc
            continue
        Thread(target=server.serve_forever, name="metrics-page", daemon=True).start()
        return f"http://{host}:{server.server_port}/metrics", server
    raise OSError(f"metrics_port: {host}:{first_port} and the next {PAGES - 1} cannot be bound") from taken


__all__ = ["PAGES", "serve_page"]
