"""`shoal certs FOLDER`: a throw-away authority and what it signed, for trials of `tls:`. Its own key is not kept, so it
signs nothing more.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from shoal.instance.inner_tls import NAME
from shoal.proto.errors import StartFailed

Key = ec.EllipticCurvePrivateKey


def certs(arguments: argparse.Namespace) -> int:
    write_certs(arguments.folder, hosts=arguments.host or ["localhost", "127.0.0.1"], days=arguments.days)
    print("tls:")
    for key, name in FILES.items():
        print(f"  {key}: {(arguments.folder / name).absolute()}")
    return 0


FILES = {
    "edge_cert": "edge.pem",
    "edge_key": "edge-key.pem",
    "inner_cert": "inner.pem",
    "inner_key": "inner-key.pem",
    "inner_ca": "inner-ca.pem",
}


def write_certs(folder: Path, *, hosts: list[str], days: int = 30) -> None:
    """Two authorities: a client's trust in the edge must not open the inside. Raises StartFailed where files exist."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for side, names in (("edge", hosts), ("inner", [NAME])):
        authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        authority = _sign(f"shoal {side} authority", authority_key, None, authority_key, [], days)
        cert = _sign(names[0], key, authority, authority_key, names, days)
        _write(folder / f"{side}-ca.pem", authority.public_bytes(Encoding.PEM))
        _write(folder / f"{side}.pem", cert.public_bytes(Encoding.PEM))
        _write(folder / f"{side}-key.pem", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _sign(
    name: str, key: Key, authority: x509.Certificate | None, authority_key: Key, hosts: list[str], days: int
) -> x509.Certificate:
    """`authority` None: it signs itself, and may sign others."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.subject if authority else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), critical=True)
    )
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(one) for one in hosts]), False)
    return builder.sign(authority_key, hashes.SHA256())


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write(path: Path, data: bytes) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as exc:
        raise StartFailed(f"{path}: {exc.strerror}") from None
    with os.fdopen(fd, "wb") as file:
        file.write(data)


__all__ = ["FILES", "certs", "write_certs"]
