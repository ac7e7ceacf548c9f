"""A node's pool process as a detached Ray actor: made by the node's first instance, found by the others, there until
the cluster ends. All pools of the cluster are told of each other whenever one was made.
"""

from __future__ import annotations

import asyncio
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from shoal.instance.pool.actor import PoolActor

NAMESPACE = "shoal"
PREFIX = "pool-"
ANSWER_S = 10.0
OPEN_S = 120.0


async def open_pool(config_json: str, token: str, block_bytes: int) -> str:
    """The address of this node's pool. Raises what PoolActor.open raises, or Ray's own errors."""
    node = ray.get_runtime_context().get_node_id()
    options: dict[str, Any] = {
        "name": f"{PREFIX}{node[:16]}",
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": True,
        "num_cpus": 0,
        "max_restarts": 0,
        "max_concurrency": 8,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
    }
    pool = ray.remote(PoolActor).options(**options).remote(config_json, token, node[:16])
    address = await asyncio.wait_for(pool.open.remote(block_bytes), OPEN_S)
    await introduce_all()
    return str(address)


async def introduce_all() -> None:
    """Members are the pools that this cluster's Ray knows by name."""
    named = await asyncio.to_thread(ray.util.list_named_actors, all_namespaces=True)
    names = [one["name"] for one in named if one["namespace"] == NAMESPACE and one["name"].startswith(PREFIX)]
    pools = [await asyncio.to_thread(ray.get_actor, name, NAMESPACE) for name in names]
    answers = await asyncio.wait_for(asyncio.gather(*(pool.where.remote() for pool in pools)), ANSWER_S)
    addresses = {node_id: address for node_id, address in answers if address}
    await asyncio.wait_for(asyncio.gather(*(pool.set_peers.remote(addresses) for pool in pools)), ANSWER_S)


__all__ = ["introduce_all", "open_pool"]
