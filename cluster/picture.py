"""The cluster as a person looks at it: every instance, who sits on it, what moves, how full the pools are. Made of what
the controller knows; no word of any prompt is in it, for the controller has none.

Bounded: of a crowded instance only the first GUESTS_PER_INSTANCE requests are drawn, the moving ones before all.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping

import grpc

from shoal.cluster.planner import Planner
from shoal.cluster.sight import Sight
from shoal.instance.auth import token_metadata
from shoal.instance.inner_tls import PLAIN, InnerTls
from shoal.proto.v1 import controller_pb2 as pb
from shoal.proto.v1 import pool_pb2, pool_pb2_grpc

GUESTS_PER_INSTANCE = 48
PICTURE_S = 0.2
POOLS_S = 2.0
ANSWER_S = 0.5  # of a pool: pictures wait for it


def guests(sights: Mapping[str, Sight]) -> list[pb.Guest]:
    return [one for instance, sight in sights.items() for one in _guests(instance, sight)]


def _guests(instance: str, sight: Sight) -> Iterable[pb.Guest]:
    rank = {"moving": 0, "running": 1}
    crowd = sorted(sight.residents, key=lambda one: (rank.get(one.state, 2), one.since_s, one.request_id))
    for one in crowd[:GUESTS_PER_INSTANCE]:
        yield pb.Guest(
            instance=instance,
            request_id=one.request_id,
            state=one.state,
            prompt_tokens=one.prompt_tokens,
            computed_tokens=one.computed_tokens,
            output_tokens=one.output_tokens,
            max_new_tokens=one.max_new_tokens,
            moves=one.moves,
        )


class PoolGlance:
    """Asks each pool now and then how full it is, while somebody looks. Owns the last answers."""

    def __init__(self, addresses: Callable[[], set[str]], token: str, tls: InnerTls = PLAIN) -> None:
        self._addresses, self._metadata, self._tls = addresses, token_metadata(token), tls
        self.seen: list[pb.PoolSight] = []
        self._asked_s = float("-inf")

    async def look(self, now_s: float) -> None:
        if now_s - self._asked_s >= POOLS_S:
            self._asked_s = now_s
            answers = await asyncio.gather(*map(self._ask, sorted(self._addresses())))
            self.seen = [one for one in answers if one is not None]

    async def _ask(self, address: str) -> pb.PoolSight | None:
        with contextlib.suppress(grpc.aio.AioRpcError):  # gone, or busy: it is not drawn this time
            async with self._tls.aio_channel(address) as channel:
                ask = pool_pb2_grpc.PoolStub(channel).Describe
                facts = await ask(pool_pb2.DescribeAsk(), timeout=ANSWER_S, metadata=self._metadata)
                return pb.PoolSight(
                    node_id=facts.node_id,
                    memory_blocks=facts.memory_blocks,
                    free_blocks=facts.free_blocks,
                    disk_blocks=facts.disk_blocks,
                    disk_free_blocks=facts.disk_free_blocks,
                )
        return None


async def pictures(
    status: Callable[[], pb.StatusReply], planner: Planner, pools: PoolGlance
) -> AsyncIterator[pb.Picture]:
    """One at once, then one whenever it differs from the one before, at most every PICTURE_S."""
    told, ended = b"", planner.outcomes.total()
    while True:
        await pools.look(planner.clock())
        picture = pb.Picture(status=status(), guests=guests(planner.sights), pools=pools.seen)
        news, ended = planner.ended_since(ended), planner.outcomes.total()
        picture.ended.extend(news)
        if (text := picture.SerializeToString(deterministic=True)) != told:
            told = text
            yield picture
        await asyncio.sleep(PICTURE_S)


__all__ = ["GUESTS_PER_INSTANCE", "PICTURE_S", "PoolGlance", "guests", "pictures"]
