"""Load as one number, for every kind of rescheduling: *freeness*, after Llumnix (OSDI 2024).

  freeness = (total - virtual usage) x block size / batch

in tokens: how many more each request of the batch may get before the KV cache is full. Negative: more is asked for than
there is. The virtual usage of a host, in blocks, is the sum over its requests:

  running           what it holds (shared blocks once: it is what is not free)
  head of queue     what it needs to start, so that room is made for it: de-fragmentation
  others waiting    nothing, they come after the head
  high class        what it holds, and its share of the headroom, which keeps others away from it
  draining host     without end, so that everything leaves it

The batch counts running requests, and one more if any wait.
"""

from __future__ import annotations

from shoal.router.fleet import Host
from shoal.router.rank import Rank


def headroom_blocks(host: Host, headroom_tokens: int) -> float:
    """Kept free beside requests of the high class; shared by them, so it counts once per host."""
    return headroom_tokens / host.block_size if any(job.rank is Rank.HIGH for job in host.running) else 0.0


def usage_blocks(host: Host, headroom_tokens: int = 0) -> float:
    if host.draining:
        return float("inf")
    waiting = host.waiting
    demand = waiting[0].blocks if waiting else 0
    return host.total_blocks - host.free_blocks + demand + headroom_blocks(host, headroom_tokens)


def freeness(host: Host, headroom_tokens: int = 0) -> float:
    """Tokens; of an empty host, its whole cache."""
    batch = len(host.running) + any(host.waiting)
    return (host.total_blocks - usage_blocks(host, headroom_tokens)) * host.block_size / max(batch, 1)


def average_freeness(hosts: list[Host], headroom_tokens: int = 0) -> float:
    """Over hosts that take requests: what a fleet is scaled on. -inf where there is none."""
    values = [freeness(host, headroom_tokens) for host in hosts if host.placeable and not host.draining]
    return sum(values) / len(values) if values else float("-inf")


__all__ = ["average_freeness", "freeness", "headroom_blocks", "usage_blocks"]
