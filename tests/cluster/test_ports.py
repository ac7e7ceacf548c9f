"""A port that somebody listens on is taken, even if that listener would share it."""

from __future__ import annotations

import socket

import pytest

from shoal.cluster.ports import claim_port, free_port
from shoal.proto.errors import StartFailed


@pytest.mark.parametrize("shared", [False, True])
def test_a_listener_makes_its_port_taken(shared: bool):
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StartFailed, match=rf"^http_port: 127.0.0.1:{port} cannot be bound"):
            claim_port("http_port", "127.0.0.1", port)
    assert claim_port("http_port", "127.0.0.1", port) == port


def test_zero_is_any_free_port_and_a_foreign_address_is_told():
    assert claim_port("http_port", "127.0.0.1", 0) > 0 and free_port("127.0.0.1") > 0
    with pytest.raises(StartFailed, match="cannot be bound"):
        claim_port("http_port", "203.0.113.1", 0)
