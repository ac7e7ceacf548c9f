"""How processes of a cluster reach each other: plain text, or TLS in which each side proves that the cluster's
authority knows it.

All certificates are for one name, whatever machine they are on: who may do what is the token's to say. Files are read
when a channel opens, and by a listener again when they have changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from shoal.proto.errors import StartFailed
from shoal.proto.security import TlsConfig

NAME = "shoal-inner"
Options = Sequence[tuple[str, Any]]


@dataclass(frozen=True, slots=True)
class InnerTls:
    """`cert`, `key` and `ca` are all given or none."""

    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None

    @staticmethod
    def of(tls: TlsConfig) -> InnerTls:
        return InnerTls(tls.inner_cert, tls.inner_key, tls.inner_ca)

    def channel(self, address: str, options: Options = ()) -> Any:
        """Raises StartFailed where a file cannot be read."""
        if self.cert is None:
            return grpc.insecure_channel(address, options=options)
        return grpc.secure_channel(address, self._credentials(), options=self._named(options))

    def aio_channel(self, address: str, options: Options = ()) -> Any:
        """Raises StartFailed where a file cannot be read."""
        if self.cert is None:
            return grpc.aio.insecure_channel(address, options=options)
        return grpc.aio.secure_channel(address, self._credentials(), options=self._named(options))

    def bind(self, server: Any, address: str) -> int:
        """The port. Raises RuntimeError where it is taken, StartFailed where a file cannot be read."""
        if self.cert is None or self.key is None:
            return int(server.add_insecure_port(address))
        return int(server.add_secure_port(address, server_credentials(self.cert, self.key, self.ca)))

    def _credentials(self) -> Any:
        cert, key, ca = (read(one) for one in (self.cert, self.key, self.ca))
        return grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=cert)

    def _named(self, options: Options) -> Options:
        return [*options, ("grpc.ssl_target_name_override", NAME)]


PLAIN = InnerTls()


def server_credentials(cert: Path, key: Path, ca: Path | None = None) -> Any:
    """With `ca`, a client must show a certificate of it. Raises StartFailed where a file cannot be read."""
    files = [one for one in (cert, key, ca) if one is not None]
    seen = [_stamps(files)]

    def load() -> Any:
        return grpc.ssl_server_certificate_configuration(
            [(read(key), read(cert))], root_certificates=read(ca) if ca is not None else None
        )

    def news() -> Any:
        """Asked at every handshake. None: as before, also while the files are being replaced."""
        try:
            if (now := _stamps(files)) == seen[0]:
                return None
            fresh = load()
        except (OSError, StartFailed):
            return None
        seen[0] = now
        return fresh

    return grpc.dynamic_ssl_server_credentials(load(), news, require_client_authentication=ca is not None)


def read(path: Path | None) -> bytes:
    assert path is not None
    try:
        return path.read_bytes()
    except OSError as exc:
        raise StartFailed(f"tls: {path}: {exc.strerror}") from None


def _stamps(files: Sequence[Path]) -> list[tuple[int, int]]:
    return [(one.stat().st_mtime_ns, one.stat().st_ino) for one in files if one.exists()]


__all__ = ["NAME", "PLAIN", "InnerTls", "read", "server_credentials"]
