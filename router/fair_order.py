"""Fair shares between tenants: of those who wait in one class, whoever has been served least comes next (the virtual
token counter of "Fairness in Serving Large Language Models", OSDI 2024: prompt tokens count once, new ones twice).

A tenant that was away comes back level with the least served one that waits, or with the last one served when none
waits: nobody saves up service. Within a tenant the earliest due comes first.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import NamedTuple

from shoal.router.contract import RouteRequest

NEW_TOKEN_WEIGHT = 2.0
UNKNOWN_NEW_TOKENS = 256


class Place(NamedTuple):
    """In the queue of its tenant. `due_s`: see `AdmissionQueue`."""

    priority: int
    due_s: float
    serial: int


class FairOrder:
    """Sole owner of the order of one queue."""

    def __init__(self) -> None:
        self._queues: dict[str, list[tuple[Place, RouteRequest]]] = {}
        self._served: dict[str, float] = {}
        self._level = 0.0  # of the last one served

    def add(self, place: Place, request: RouteRequest) -> None:
        queue = self._queues.get(request.tenant)
        if queue is None:
            level = min((self._served[tenant] for tenant in self._queues), default=self._level)
            self._served[request.tenant] = max(self._served.get(request.tenant, 0.0), level)
            queue = self._queues[request.tenant] = []
        insort(queue, (place, request), key=lambda entry: entry[0])

    def remove(self, place: Place, request: RouteRequest) -> None:
        queue = self._queues[request.tenant]
        del queue[_before(queue, place)]
        if not queue:
            del self._queues[request.tenant]

    def serve(self, request: RouteRequest) -> None:
        """It got what it waited for."""
        self._level = self._served[request.tenant] = self._served.get(request.tenant, 0.0) + price(request)

    def ahead(self, place: Place, tenant: str) -> int:
        """How many would go first if all were equally long: of each other tenant as many as of its own."""
        first, last = Place(place.priority, float("-inf"), 0), Place(place.priority + 1, float("-inf"), 0)
        queue = self._queues.get(tenant, [])
        own = _before(queue, place)
        turns = own - _before(queue, first)
        others = [queue for name, queue in self._queues.items() if name != tenant]
        return own + sum(min(_before(queue, last), _before(queue, first) + turns) for queue in others)

    def __iter__(self) -> Iterator[RouteRequest]:
        """As they would be served if each got its place in turn. A snapshot: the queue may change meanwhile."""
        queues = {tenant: list(queue) for tenant, queue in self._queues.items()}
        heads = [(queue[0][0].priority, self._served[tenant], queue[0][0], tenant) for tenant, queue in queues.items()]
        heapq.heapify(heads)
        at = dict.fromkeys(queues, 0)
        while heads:
            _, served, _, tenant = heads[0]
            queue, number = queues[tenant], at[tenant]
            request = queue[number][1]
            yield request
            at[tenant] = number + 1
            if number + 1 < len(queue):
                place = queue[number + 1][0]
                heapq.heapreplace(heads, (place.priority, served + price(request), place, tenant))
            else:
                heapq.heappop(heads)

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))


def _before(queue: list[tuple[Place, RouteRequest]], place: Place) -> int:
    return bisect_left(queue, place, key=lambda entry: entry[0])


def price(request: RouteRequest) -> float:
    """In tokens, as far as known beforehand."""
    expected = UNKNOWN_NEW_TOKENS if request.expected_new_tokens is None else request.expected_new_tokens
    return request.context_tokens + NEW_TOKEN_WEIGHT * min(expected, request.max_new_tokens)


__all__ = ["FairOrder", "Place", "price"]
