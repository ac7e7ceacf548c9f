"""The gRPC face of a pool node: for the instances of its node, and for the pools of other nodes.

Words become acts of PoolNode; blocks come from peers by `take`. Owns the peers, which are members of the cluster and
nobody else: a call names a node, never an address.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from shoal.instance.gate import Gate
from shoal.instance.inner_tls import PLAIN, InnerTls
from shoal.instance.pool.client import OPTIONS, PoolClient
from shoal.instance.pool.node import Granted, PoolNode
from shoal.instance.pool.path_nixl import NixlAgent
from shoal.instance.pool.peer import PATHS, Peer, probe_keys
from shoal.instance.pool.slots import Place, Tier
from shoal.instance.pool.trace import TracedPool
from shoal.instance.pool.transport import batches
from shoal.proto.errors import Unavailable
from shoal.proto.failpoints import hit
from shoal.proto.v1 import pool_pb2 as pb
from shoal.proto.v1 import pool_pb2_grpc as rpc

TICK_S = 0.05
THREADS = 16


class PoolService(rpc.PoolServicer):
    """Thread-safe, like what it serves."""

    def __init__(
        self,
        node: PoolNode,
        token: str,
        *,
        nixl: NixlAgent | None = None,
        offered: Sequence[str] = PATHS,
        tls: InnerTls = PLAIN,
    ) -> None:
        self.node, self.token, self.tls, self.nixl, self.offered = node, token, tls, nixl, offered
        self.peers: dict[str, Peer] = {}
        self.stopped = threading.Event()
        self.ticker = threading.Thread(target=self._tick, name="pool-tick", daemon=True)
        self._store_probe_blocks()

    def _store_probe_blocks(self) -> None:
        keys, node = probe_keys(), self.node
        granted = node.reserve("", keys, wait_s=5.0)
        sealed = []
        for key, place in granted.blocks:
            data = node.segment(place).slot(place.index)
            data[:] = key[-1]
            sealed.append((key, node.sealer.seal(key, [data]), data.nbytes))
        node.publish(granted.name, sealed)
        with node.lock:
            node.ledger.lease("probe", keys, deadline_s=float("inf"))

    def _tick(self) -> None:
        while not self.stopped.wait(TICK_S):
            self.node.tick()

    def set_peers(self, addresses: Mapping[str, str]) -> None:
        """The other members: node id -> address. Whoever is not among them is no longer talked to."""
        for node_id in list(self.peers):
            if addresses.get(node_id) != self.peers[node_id].client.address:
                self.peers.pop(node_id).close()
        for node_id, address in addresses.items():
            if node_id != self.node.node_id and node_id not in self.peers:
                client = PoolClient(address, self.token, self.tls)
                self.peers[node_id] = Peer(node_id, client, self.node.sealer, self.nixl, self.offered)

    # -- words for what the node says

    def _grant(self, granted: Granted, *, published: bool) -> pb.Grant:
        blocks = [self._block(key, place, published=published) for key, place in granted.blocks]
        return pb.Grant(name=granted.name, blocks=blocks, stored=granted.stored, refused=granted.refused)

    def _block(self, key: bytes, place: Place, *, published: bool) -> pb.Block:
        block = pb.Block(key=key, segment=place.segment, index=place.index, generation=place.generation)
        if published:
            header = self.node.header(place)
            block.length, block.seal = header.length, header.seal
            if self._register(place):
                block.address = self.node.segment(place).slot(place.index).ctypes.data
        return block

    def _register(self, place: Place) -> bool:
        """Memory segments only, when first a block of them is to travel. False: that segment is not for NIXL."""
        if self.nixl is None:
            return False
        segments = self.node.arenas[Tier.MEMORY].segments
        for serial in [serial for serial in self.nixl.registered if serial not in segments]:
            self.nixl.deregister(serial)
        if place.segment in segments and place.segment not in self.nixl.registered:
            self.nixl.register(place.segment, segments[place.segment])
        return place.segment in self.nixl.registered

    # -- calls

    def Describe(self, ask: pb.DescribeAsk, context: Any) -> pb.PoolFacts:
        node = self.node
        with node.lock:
            slots, counts = node.ledger.slots, dict(node.ledger.counts)
            memory, disk = slots.capacity[Tier.MEMORY], slots.capacity[Tier.DISK]
            free, disk_free = len(slots.free[Tier.MEMORY]), len(slots.free[Tier.DISK])
        return pb.PoolFacts(
            node_id=node.node_id,
            slot_bytes=node.sizes.slot_bytes,
            segment_slots=node.sizes.segment_slots,
            prefixes=[str(arena.folder / arena.prefix) for arena in node.arenas.values()],
            memory_blocks=memory,
            free_blocks=free,
            disk_blocks=disk,
            disk_free_blocks=disk_free,
            nixl_agent=self.nixl.metadata() if self.nixl is not None else b"",
            counts=counts,
        )

    def Match(self, ask: pb.Run, context: Any) -> pb.Count:
        return pb.Count(blocks=self.node.match(ask.keys))

    def Lease(self, ask: pb.Run, context: Any) -> pb.Grant:
        return self._grant(self.node.lease(list(ask.keys), wait_s=ask.wait_s, pin=ask.pin), published=True)

    def Locate(self, ask: pb.Name, context: Any) -> pb.Grant:
        return self._grant(Granted(ask.name, 0.0, tuple(self.node.places(ask.name))), published=True)

    def Renew(self, ask: pb.Name, context: Any) -> pb.Done:
        return pb.Done(done=self.node.renew(ask.name, wait_s=ask.wait_s))

    def Release(self, ask: pb.Name, context: Any) -> pb.Done:
        self.node.cancel(ask.name)
        return pb.Done(done=self.node.release(ask.name))

    def Reserve(self, ask: pb.Run, context: Any) -> pb.Grant:
        return self._grant(self.node.reserve(ask.tenant, list(ask.keys), wait_s=ask.wait_s), published=False)

    def Publish(self, ask: pb.PublishAsk, context: Any) -> pb.Stored:
        hit("pool.publish")
        stored = self.node.publish(ask.name, [(one.key, one.seal, one.length) for one in ask.blocks])
        return pb.Stored(keys=[one.key for one, there in zip(ask.blocks, stored, strict=True) if there])

    def Evict(self, ask: pb.Run, context: Any) -> pb.Count:
        return pb.Count(blocks=self.node.evict(ask.keys))

    def Damaged(self, ask: pb.Run, context: Any) -> pb.Count:
        return pb.Count(blocks=sum(self.node.damaged(key) for key in ask.keys))

    def Resize(self, ask: pb.ResizeAsk, context: Any) -> pb.ResizeDone:
        done = self.node.resize(ask.segments, wait_s=ask.wait_s)
        return pb.ResizeDone(segments=done.segments, stuck=done.stuck, busy=done.busy, reason=done.reason)

    def Fetch(self, ask: pb.FetchAsk, context: Any) -> Iterator[pb.Pieces]:
        places = self.node.places(ask.name)
        wanted = [places[index][1] for index in ask.indexes if index < len(places)]
        lengths = [self.node.header(place).length for place in wanted]
        for batch in batches(lengths):
            data = [self.node.segment(wanted[i]).slot(wanted[i].index, lengths[i]) for i in batch]
            yield pb.Pieces(data=b"".join(data), blocks=len(batch))

    def Take(self, ask: pb.TakeAsk, context: Any) -> pb.Stored:
        peer = self.peers.get(ask.source)
        if peer is None:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"{ask.source}: not a member")
        try:
            return self.take(peer, ask)
        except Unavailable as exc:
            context.abort(grpc.StatusCode.UNAVAILABLE, str(exc))

    def Transfer(self, ask: pb.TransferAsk, context: Any) -> pb.Stored:
        """The target allocates and reads; blocks stay leased here until it has answered."""
        peer = self.peers.get(ask.target)
        if peer is None:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"{ask.target}: not a member")
        lease = self.node.lease(list(ask.keys), wait_s=ask.wait_s)
        keys = [key for key, _ in lease.blocks]
        take = pb.TakeAsk(source=self.node.node_id, tenant=ask.tenant, keys=keys, lease=lease.name, insert=ask.insert)
        take.wait_s = ask.wait_s
        try:
            return peer.client.call("Take", take, wait_s=ask.wait_s) if keys else pb.Stored()
        except Unavailable as exc:
            context.abort(grpc.StatusCode.UNAVAILABLE, str(exc))
        finally:
            self.node.release(lease.name)

    def take(self, peer: Peer, ask: pb.TakeAsk) -> pb.Stored:
        """Reads from the peer straight into reserved slots, verifies there, publishes what fits. Raises Unavailable."""
        reserved = self.node.reserve(ask.tenant, list(ask.keys), wait_s=ask.wait_s)
        stored = pb.Stored(keys=reserved.stored, refused=reserved.refused)
        if not reserved.blocks:
            return stored
        ours, done = dict(reserved.blocks), False
        lease = pb.Name(name=ask.lease)
        try:
            grant = peer.client.call("Locate", lease) if ask.lease else peer.lease(list(ours), wait_s=ask.wait_s)
            lease.name = grant.name
            theirs = [
                block for block in grant.blocks if block.key in ours and block.length <= self.node.sizes.slot_bytes
            ]
            sealed = self._pull(peer, grant, theirs, ours, stored, wait_s=ask.wait_s)
            if ask.insert:
                published = self.node.publish(reserved.name, sealed)
                stored.keys.extend(key for (key, _, _), there in zip(sealed, published, strict=True) if there)
            else:
                stored.name, done = reserved.name, True
                stored.held.extend(pb.Sealed(key=key, seal=seal, length=length) for key, seal, length in sealed)
            return stored
        finally:
            if not done:
                self.node.cancel(reserved.name)
            if not ask.lease:
                peer.release(lease.name)

    def _pull(
        self,
        peer: Peer,
        grant: pb.Grant,
        theirs: Sequence[pb.Block],
        ours: Mapping[bytes, Place],
        stored: pb.Stored,
        *,
        wait_s: float,
    ) -> list[tuple[bytes, bytes, int]]:
        if not theirs:
            return []
        for place in ours.values():
            self._register(place)
        wanted = pb.Grant(name=grant.name, blocks=theirs)
        into = [self.node.segment(ours[block.key]).slot(ours[block.key].index, block.length) for block in theirs]
        fits, stored.path = peer.read(wanted, into, wait_s=wait_s)
        return [(one.key, one.seal, one.length) for one, good in zip(theirs, fits, strict=True) if good]


def serve_pool(service: PoolService, host: str, *, port: int = 0) -> tuple[str, Any]:
    """Returns the address and the server, to be stopped by `stop_pool`."""
    server = grpc.server(
        ThreadPoolExecutor(THREADS, thread_name_prefix="pool"),
        options=OPTIONS,
        interceptors=[Gate(service.token), TracedPool()],
    )
    rpc.add_PoolServicer_to_server(service, server)
    bound = service.tls.bind(server, f"{host}:{port}")
    server.start()
    service.ticker.start()
    return f"{host}:{bound}", server


def stop_pool(service: PoolService, server: Any) -> None:
    service.stopped.set()
    server.stop(grace=0.2).wait()
    service.ticker.join(5.0)
    service.set_peers({})
    service.node.close()


__all__ = ["PoolService", "serve_pool", "stop_pool"]
