"""Is a TCP port free, and which one is. Asked without SO_REUSEPORT, so that a sharing listener is seen too."""

from __future__ import annotations

import socket

from shoal.proto.errors import StartFailed


def _bind(host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        probe.bind((host, port))
        bound: int = probe.getsockname()[1]
        return bound


def free_port(host: str) -> int:
    return _bind(host, 0)


def claim_port(key: str, host: str, port: int) -> int:
    """The port, or a free one for 0. Raises StartFailed where it is taken or may not be bound."""
    try:
        return _bind(host, port)
    except OSError as exc:
        raise StartFailed(f"{key}: {host}:{port} cannot be bound ({exc.strerror or exc})") from None


__all__ = ["claim_port", "free_port"]
