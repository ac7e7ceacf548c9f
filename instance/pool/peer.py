"""One other node's pool, seen from this one: which paths reach it, how fast each was measured, and reading over them.

Probed at the start with blocks that every pool keeps for that, and again after a path failed. A fall to a slower path
is logged and counted.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from shoal.instance.pool.arena import Bytes
from shoal.instance.pool.client import PoolClient
from shoal.instance.pool.path_arena import ArenaPath
from shoal.instance.pool.path_nixl import NixlAgent, NixlPath
from shoal.instance.pool.path_stream import StreamPath
from shoal.instance.pool.seal import Header, Sealer
from shoal.instance.pool.transport import Path, Rates
from shoal.proto.errors import Unavailable
from shoal.proto.v1 import pool_pb2 as pb

log = logging.getLogger("shoal.pool")
PROBE_BLOCKS = 4
PROBE_ROUNDS = 3
PROBE_AGAIN_S = 30.0
PROBE_WAIT_S = 5.0
PATHS = ("arena", "nixl", "stream")


def probe_keys() -> list[bytes]:
    """Blocks that every pool node publishes under a lease without end."""
    return [b"shoal probe".ljust(16, b"\0") + bytes([i]) * 32 for i in range(PROBE_BLOCKS)]


class Peer:
    """Thread-safe. `Buffers` are of this node, e.g. reserved slots."""

    def __init__(
        self, node_id: str, client: PoolClient, sealer: Sealer, nixl: NixlAgent | None, offered: Sequence[str] = PATHS
    ) -> None:
        self.node_id, self.client, self.sealer = node_id, client, sealer
        self.rates, self.lock = Rates(), threading.Lock()
        self.paths: dict[str, Path] = {}
        self.probed_s = float("-inf")
        self._offered, self._nixl = offered, nixl

    def lease(self, keys: Sequence[bytes], *, wait_s: float) -> pb.Grant:
        return self.client.call("Lease", pb.Run(keys=keys, wait_s=wait_s), wait_s=wait_s)

    def release(self, name: str) -> None:
        with contextlib.suppress(Unavailable):  # it ends by its deadline
            self.client.call("Release", pb.Name(name=name))

    def read(self, grant: pb.Grant, into: Sequence[Bytes], *, wait_s: float) -> tuple[list[bool], str]:
        """(which blocks arrived as they were sealed, the path that carried them). Raises Unavailable: by no path."""
        self._probe_if_due()
        end_s = time.monotonic() + wait_s
        while name := self.rates.chosen:
            try:
                self.paths[name].read(grant, into, wait_s=end_s - time.monotonic())
                return [self._fits(block, buffer) for block, buffer in zip(grant.blocks, into, strict=True)], name
            except Unavailable as exc:
                self._fall(name, exc)
                if time.monotonic() >= end_s:
                    break
        raise Unavailable(f"{self.node_id}: no path to it, or not within {wait_s:g} s")

    def _fits(self, block: pb.Block, buffer: Bytes) -> bool:
        header = Header(block.key, block.seal, block.generation, block.length)
        return buffer.nbytes == block.length and self.sealer.fits(header, block.key, block.generation, [buffer])

    def _fall(self, name: str, exc: Unavailable) -> None:
        with self.lock:
            to = self.rates.fell(name)
        log.warning("pool path to %s: %s failed (%s), now %s", self.node_id, name, exc, to or "none")

    # -- probing

    def _probe_if_due(self) -> None:
        with self.lock:
            missing = any(name not in self.rates.gib_per_s for name in self._offered)
            if self.rates.gib_per_s and not (missing and time.monotonic() - self.probed_s > PROBE_AGAIN_S):
                return
            self.probe()

    def probe(self) -> None:
        """Measures every path that is offered and not in use. Whoever has no path at all raises at its next read."""
        self.probed_s, before = time.monotonic(), self.rates.chosen
        for name in self._offered:
            if name in self.rates.gib_per_s:
                continue
            try:
                self.paths[name] = self._open(name)
                self.rates.gib_per_s[name] = self._measure(self.paths[name])
            except Unavailable as exc:
                log.info("pool path to %s: %s is not offered: %s", self.node_id, name, exc)
        if self.rates.chosen != before:
            rates = ", ".join(f"{name} {rate:.2f} GiB/s" for name, rate in self.rates.gib_per_s.items())
            log.info("pool path to %s: %s (measured: %s)", self.node_id, self.rates.chosen or "none", rates)

    def _describe(self) -> pb.PoolFacts:
        return self.client.call("Describe", pb.DescribeAsk())

    def _open(self, name: str) -> Path:
        makers: dict[str, Callable[[], Path]] = {
            "arena": lambda: ArenaPath(self._describe()),
            "nixl": lambda: NixlPath(self._nixl, self._describe),
            "stream": lambda: StreamPath(self.client),
        }
        return makers[name]()

    def _measure(self, path: Path) -> float:
        """GiB/s, the best of a few rounds. Raises Unavailable where what arrives is not what was sealed."""
        grant = self.lease(probe_keys(), wait_s=PROBE_WAIT_S)
        try:
            if not grant.blocks:
                raise Unavailable("the peer has no probe blocks")
            into = [np.zeros(block.length, dtype=np.uint8) for block in grant.blocks]
            took_s = []
            for _ in range(PROBE_ROUNDS):
                start_s = time.perf_counter()
                path.read(grant, into, wait_s=PROBE_WAIT_S)
                took_s.append(time.perf_counter() - start_s)
            if not all(self._fits(block, buffer) for block, buffer in zip(grant.blocks, into, strict=True)):
                raise Unavailable("the probe came damaged")
            return sum(buffer.nbytes for buffer in into) / min(took_s) / 2**30
        finally:
            self.release(grant.name)

    def close(self) -> None:
        for path in self.paths.values():
            path.close()
        self.client.close()


__all__ = ["PATHS", "Peer", "probe_keys"]
