"""What moves may take of an instance, worked out by hand."""

from shoal.instance.migration.budget import Budget, BudgetLimits


def test_no_more_moves_at_once_than_allowed():
    budget = Budget(BudgetLimits(moves=2))
    budget.begin()
    assert budget.has_room()
    budget.begin()
    assert not budget.has_room()
    budget.end()
    assert budget.has_room()


def test_parcels_share_the_bytes_in_flight_and_are_no_crumbs():
    limits = BudgetLimits(moves=4, in_flight_bytes=16 << 20, least_parcel_bytes=256 << 10)
    assert Budget(limits).parcel_blocks(512 << 10) == 8  # 4 MiB each
    assert Budget(limits).parcel_blocks(64 << 20) == 1
    small = BudgetLimits(moves=4, in_flight_bytes=4096, least_parcel_bytes=256 << 10)
    assert Budget(small).parcel_blocks(4096) == 64


def test_the_copy_thread_rests_in_proportion_to_its_work():
    budget = Budget(BudgetLimits(duty=0.25, rate_bytes_per_s=1e9))
    assert budget.rest_s(1000, 0.01, now_s=5.0) == 0.01 * 3


def test_a_slow_link_is_waited_for():
    budget = Budget(BudgetLimits(duty=1.0, rate_bytes_per_s=1e6))
    assert budget.rest_s(500_000, 0.0, now_s=5.0) == 0.5
    assert budget.rest_s(500_000, 0.0, now_s=5.25) == 0.75
    assert budget.copy_s == 0.0
