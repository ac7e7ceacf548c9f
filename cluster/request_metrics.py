"""What a frontend counts of its requests beyond vLLM's own numbers: tokens by outcome, waits, decisions, the SLO.

Owns its counters and, per open request, when what happened. Times come from the caller.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import Counter, Histogram, Metric

from shoal.cluster.journal import Outcome, Ticket
from shoal.cluster.slo import Attainment, attainment, service_class
from shoal.proto.config import SloConfig
from shoal.router.contract import Placement, RouteRequest

SERVED = {Outcome.STOP, Outcome.LENGTH, Outcome.REPETITION}
QUEUE_BUCKETS = (0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0)
DECISION_BUCKETS = (0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05)


@dataclass(slots=True)
class _Life:
    uncached_tokens: int
    first_s: float | None = None


class RequestMetrics:
    def __init__(self, slo: SloConfig) -> None:
        self.slo = slo
        self._lives: dict[str, _Life] = {}
        self._tokens = Counter(
            "shoal_frontend_tokens", "Output tokens of ended requests.", ["outcome", "tenant"], registry=None
        )
        self._queue = Histogram(
            "shoal_frontend_queue_seconds", "From arrival to a place.", buckets=QUEUE_BUCKETS, registry=None
        )
        self._decision = Histogram(
            "shoal_router_decision_seconds", "One placement.", buckets=DECISION_BUCKETS, registry=None
        )
        self._placements = Counter("shoal_router_placements", "Requests placed.", ["engine"], registry=None)
        self._prompt = Counter("shoal_router_prompt_tokens", "Prompt tokens placed.", registry=None)
        self._matched = Counter(
            "shoal_router_matched_tokens", "Of those, believed to be in the chosen cache.", registry=None
        )
        self._slo = Counter(
            "shoal_slo_requests",
            "Served requests, by whether they met the SLO.",
            ["tenant", "class", "result"],
            registry=None,
        )

    def decided(self, took_s: float) -> None:
        self._decision.observe(took_s)

    def placed(self, route: RouteRequest, placement: Placement, now_s: float) -> None:
        """A later placement of the same request, after a failover, leaves its times as they were."""
        self._placements.labels(placement.instance).inc()
        if route.request_id in self._lives:
            return
        self._lives[route.request_id] = _Life(route.context_tokens - placement.cached_tokens)
        self._queue.observe(now_s - route.arrived_s)
        self._prompt.inc(route.context_tokens)
        self._matched.inc(placement.cached_tokens)

    def token(self, request_id: str, now_s: float) -> None:
        life = self._lives.get(request_id)
        if life is not None and life.first_s is None:
            life.first_s = now_s

    def ended(self, ticket: Ticket, outcome: Outcome, now_s: float) -> bool | None:
        """Whether it met the SLO; None: it was not served."""
        route, count = ticket.route, len(ticket.delivered)
        self._tokens.labels(outcome.value, route.tenant).inc(count)
        life = self._lives.pop(route.request_id, None)
        if life is None or life.first_s is None or outcome not in SERVED:
            return None
        result = attainment(
            self.slo,
            uncached_tokens=life.uncached_tokens,
            ttft_s=life.first_s - route.arrived_s,
            tpot_s=(now_s - life.first_s) / (count - 1) if count > 1 else 0.0,
        )
        self._slo.labels(route.tenant, service_class(route.priority), result.value).inc()
        return result is Attainment.MET

    def collect(self) -> Iterator[Metric]:
        for one in (
            self._tokens,
            self._queue,
            self._decision,
            self._placements,
            self._prompt,
            self._matched,
            self._slo,
        ):
            yield from one.collect()


__all__ = ["RequestMetrics"]
