"""A tenant gets what it was granted and not more, and gets it back in time."""

import pytest

from shoal.proto.config import ClusterConfig
from shoal.proto.errors import Overloaded
from shoal.router.tenant_limits import Bucket, TenantLimits


def limits(frontends=1, **ada):
    return TenantLimits(ClusterConfig(frontends=frontends, tenants={"ada": ada}))


def refused(one, now_s=0.0, tenant="ada"):
    with pytest.raises(Overloaded) as caught:
        one.enter(tenant, now_s)
    return caught.value


def test_a_bucket_fills_at_its_rate_and_not_beyond_its_size():
    bucket = Bucket(rate_per_s=2.0, size=3.0, level=3.0, at_s=0.0)
    bucket.take(3.0)
    assert bucket.wait_s(1.0, 0.0) == 0.5
    assert bucket.wait_s(1.0, 0.25) == 0.25
    assert bucket.wait_s(3.0, 100.0) == 0.0
    assert bucket.wait_s(4.0, 200.0) == 0.5


def test_a_burst_passes_and_then_the_rate():
    one = limits(requests_per_s=2.0, burst=3)
    for _ in range(3):
        one.enter("ada", 0.0)
    error = refused(one)
    assert error.retry_after_s == 0.5 and "requests_per_s" in str(error)
    one.enter("ada", 0.5)
    assert one.refused == {("ada", "requests_per_s"): 1}


def test_what_is_under_way_is_bounded_and_what_ended_is_not():
    one = limits(concurrent=2)
    one.enter("ada", 0.0)
    one.enter("ada", 0.0)
    assert "concurrent" in str(refused(one))
    one.leave("ada")
    one.enter("ada", 0.0)


def test_a_request_that_was_refused_takes_nothing():
    one = limits(concurrent=1, requests_per_s=1.0, burst=2)
    one.enter("ada", 0.0)
    for _ in range(5):
        refused(one)
    one.leave("ada")
    one.enter("ada", 0.0)


def test_tokens_are_paid_for_afterwards_and_a_debt_delays_the_next_request():
    one = limits(tokens_per_min=60)
    one.enter("ada", 0.0)
    one.charge("ada", 90, 0.0)
    assert refused(one).retry_after_s == 31.0  # 30 of debt, and one token to begin with, at one per second
    one.enter("ada", 31.0)


def test_nobody_pays_for_another():
    one = limits(requests_per_s=1.0, burst=1, tokens_per_min=1)
    one.enter("ada", 0.0)
    one.charge("ada", 1000, 0.0)
    refused(one)
    for _ in range(100):
        one.enter("bob", 0.0)
        one.charge("bob", 10**6, 0.0)


@pytest.mark.parametrize(("frontends", "each"), [(1, 5), (2, 3), (10, 1)])
def test_each_frontend_grants_its_part_and_at_least_one(frontends, each):
    one = limits(frontends, concurrent=5)
    for _ in range(each):
        one.enter("ada", 0.0)
    refused(one)


@pytest.mark.parametrize(("best", "asked", "given"), [(None, -9, -9), (0, -9, 0), (0, 3, 3), (-2, -9, -2)])
def test_nobody_jumps_further_ahead_than_allowed(best, asked, given):
    assert limits(best_priority=best).priority("ada", asked) == given
