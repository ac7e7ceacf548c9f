"""One-sided reads of a peer's arena by NIXL, where the wheels are installed (extra `nixl`); absent is not offered.

What carries the bytes underneath is UCX's choice: within a machine CMA, else RDMA or TCP; the probe's rate tells.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from shoal.instance.pool.arena import Bytes, SegmentMap
from shoal.instance.pool.transport import runs
from shoal.proto.errors import Unavailable
from shoal.proto.v1 import pool_pb2 as pb

POLL_S = 0.00002


class NixlAgent:
    """This process's agent, and what it has registered. One thread at a time."""

    def __init__(self, name: str) -> None:
        """Raises Unavailable where NIXL is not installed or does not start."""
        os.environ.setdefault("NIXL_LOG_LEVEL", "ERROR")
        os.environ.setdefault("UCX_LOG_LEVEL", "error")
        try:
            api: Any = importlib.import_module("nixl._api")
            self.agent = api.nixl_agent(name, api.nixl_agent_config(backends=["UCX"]))
        except Exception as exc:  # whatever a missing library or plugin raises
            raise Unavailable(f"nixl: {type(exc).__name__}: {exc}"[:200]) from None
        self.lock = threading.Lock()
        self.registered: dict[int, Any] = {}
        self.spans: dict[int, range] = {}

    def metadata(self) -> bytes:
        with self.lock:
            return self.agent.get_agent_metadata()

    def register(self, serial: int, segment: SegmentMap) -> None:
        span = (segment.bytes.ctypes.data, segment.bytes.nbytes, 0, str(serial))
        with self.lock:
            self.registered[serial] = self.agent.register_memory([span], mem_type="DRAM")
            self.spans[serial] = range(span[0], span[0] + span[1])

    def deregister(self, serial: int) -> None:
        with self.lock, contextlib.suppress(Exception):  # it ends with the process anyway
            del self.spans[serial]
            self.agent.deregister_memory(self.registered.pop(serial))

    def learn(self, metadata: bytes) -> str:
        with self.lock:
            name = self.agent.add_remote_agent(metadata)
        return name.decode() if isinstance(name, bytes) else name

    def read(self, peer: str, spans: Sequence[tuple[int, int, int]], *, wait_s: float) -> None:
        """(address there, address here, length) each. Raises whatever NIXL raises, or TimeoutError."""
        with self.lock, self._known_to_nixl(spans):
            here = self.agent.get_xfer_descs([(mine, length, 0) for _, mine, length in spans], mem_type="DRAM")
            there = self.agent.get_xfer_descs([(theirs, length, 0) for theirs, _, length in spans], mem_type="DRAM")
            handle = self.agent.initialize_xfer("READ", here, there, peer)
            try:
                state, end_s = self.agent.transfer(handle), time.monotonic() + wait_s
                while state == "PROC":
                    if time.monotonic() > end_s:
                        raise TimeoutError(f"{len(spans)} spans in {wait_s:g} s")
                    time.sleep(POLL_S)
                    state = self.agent.check_xfer_state(handle)
                if state != "DONE":
                    raise OSError(f"transfer ended as {state}")
            finally:
                self.agent.release_xfer_handle(handle)

    @contextlib.contextmanager
    def _known_to_nixl(self, spans: Sequence[tuple[int, int, int]]) -> Iterator[None]:
        """NIXL writes into registered memory only; what is not of a segment (a probe's) is registered for this read."""
        known = self.spans.values()
        strange = [(mine, length, 0, "") for _, mine, length in spans if not any(mine in one for one in known)]
        extra = self.agent.register_memory(strange, mem_type="DRAM") if strange else None
        try:
            yield
        finally:
            if extra is not None:
                self.agent.deregister_memory(extra)


class NixlPath:
    """`describe` asks the peer anew: its metadata changes with its segments."""

    name = "nixl"

    def __init__(self, agent: NixlAgent | None, describe: Callable[[], pb.PoolFacts]) -> None:
        """Raises Unavailable where one of the two sides has no NIXL."""
        if agent is None or not (facts := describe()).nixl_agent:
            raise Unavailable("nixl: not on both sides")
        self.agent, self.describe = agent, describe
        self.peer = agent.learn(facts.nixl_agent)
        self.known = facts.nixl_agent

    def read(self, grant: pb.Grant, into: Sequence[Bytes], *, wait_s: float) -> None:
        if not all(block.address for block in grant.blocks):
            raise Unavailable("nixl: the peer names no address")
        pairs = zip(grant.blocks, into, strict=True)
        spans = runs((block.address, buffer.ctypes.data, buffer.nbytes) for block, buffer in pairs)
        try:
            self._refresh()
            self.agent.read(self.peer, spans, wait_s=wait_s)
        except Exception as exc:  # NIXL has a dozen of its own
            raise Unavailable(f"nixl: {type(exc).__name__}: {exc}"[:200]) from None

    def _refresh(self) -> None:
        metadata = self.describe().nixl_agent
        if metadata != self.known:
            with self.agent.lock:
                self.agent.agent.remove_remote_agent(self.peer)
            self.peer, self.known = self.agent.learn(metadata), metadata

    def close(self) -> None:
        with self.agent.lock, contextlib.suppress(Exception):
            self.agent.agent.remove_remote_agent(self.peer)


__all__ = ["NixlAgent", "NixlPath"]
