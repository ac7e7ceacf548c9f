"""What a frontend counts, request by request."""

import pytest

from shoal.cluster.journal import Outcome, Ticket
from shoal.cluster.request_metrics import RequestMetrics
from shoal.proto.config import SloConfig
from shoal.router.contract import Placement, RouteRequest


@pytest.fixture
def metrics() -> RequestMetrics:
    return RequestMetrics(SloConfig(ttft_base_s=1.0, prefill_ms_per_token=1.0, decode_step_ms=100.0))


def read(metrics: RequestMetrics, name: str, **labels: str) -> float:
    samples = [s for family in metrics.collect() for s in family.samples]
    return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


def ticket(request_id: str, tokens: int, *, tenant: str = "ada", priority: int = 0) -> Ticket:
    route = RouteRequest(request_id, 100, 50, tenant=tenant, priority=priority, arrived_s=10.0)
    return Ticket(route, b"", b"", delivered=[1] * tokens)


def test_a_served_request_counts_its_wait_its_tokens_and_its_promise(metrics: RequestMetrics) -> None:
    one = ticket("r", 11, priority=-1)
    metrics.placed(one.route, Placement("i0", cached_tokens=60), 10.25)
    metrics.token("r", 11.0)  # the goal: 1 s + 2 x 40 ms
    metrics.token("r", 11.5)
    metrics.ended(one, Outcome.LENGTH, 13.0)  # 10 more tokens in 2 s, 200 ms each: within 300
    assert read(metrics, "shoal_frontend_queue_seconds_sum") == 0.25
    assert read(metrics, "shoal_router_placements_total", engine="i0") == 1
    assert read(metrics, "shoal_router_prompt_tokens_total") == 100
    assert read(metrics, "shoal_router_matched_tokens_total") == 60
    assert read(metrics, "shoal_frontend_tokens_total", outcome="length", tenant="ada") == 11
    assert read(metrics, "shoal_slo_requests_total", **{"tenant": "ada", "class": "high", "result": "met"}) == 1


def test_a_late_first_token_is_a_broken_promise(metrics: RequestMetrics) -> None:
    one = ticket("r", 2)
    metrics.placed(one.route, Placement("i0"), 10.0)
    metrics.token("r", 11.21)  # the goal: 1 s + 2 x 100 ms
    metrics.ended(one, Outcome.STOP, 11.3)
    assert read(metrics, "shoal_slo_requests_total", result="ttft") == 1


def test_a_request_that_moved_is_placed_twice_and_has_waited_once(metrics: RequestMetrics) -> None:
    one = ticket("r", 2)
    metrics.placed(one.route, Placement("i0"), 10.5)
    metrics.placed(one.rest(), Placement("i1"), 12.0)
    metrics.token("r", 12.5)
    metrics.ended(one, Outcome.STOP, 12.6)
    assert read(metrics, "shoal_router_placements_total") == 2
    assert read(metrics, "shoal_frontend_queue_seconds_count") == 1
    assert read(metrics, "shoal_router_prompt_tokens_total") == 100


def test_what_was_not_served_has_no_promise_and_leaves_nothing_behind(metrics: RequestMetrics) -> None:
    never_placed, left = ticket("a", 0), ticket("b", 3)
    metrics.ended(never_placed, Outcome.EXPIRED, 11.0)
    metrics.placed(left.route, Placement("i0"), 10.0)
    metrics.token("b", 10.1)
    metrics.ended(left, Outcome.ABORTED, 11.0)
    assert read(metrics, "shoal_slo_requests_total") == 0
    assert read(metrics, "shoal_frontend_tokens_total", outcome="aborted") == 3
    assert not metrics._lives
