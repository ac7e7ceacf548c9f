"""Tenants are served by turns of tokens; within a tenant the earliest due comes first."""

from shoal.router.contract import RouteRequest
from shoal.router.fair_order import FairOrder, Place, price


def order_of(*waiting: tuple[str, str, float, int]) -> FairOrder:
    """(name, tenant, due_s, priority), each 100 tokens long and 10 new ones: 120."""
    order = FairOrder()
    for serial, (name, tenant, due_s, priority) in enumerate(waiting):
        add(order, name, tenant, due_s, priority, serial)
    return order


def add(order: FairOrder, name: str, tenant: str, due_s: float = 0.0, priority: int = 0, serial: int = 9):
    entry = Place(priority, due_s, serial), RouteRequest(name, 100, 10, tenant=tenant, expected_new_tokens=10)
    order.add(*entry)
    return entry


def names(order: FairOrder) -> list[str]:
    return [request.request_id for request in order]


def test_a_crowd_of_one_tenant_does_not_keep_out_another():
    order = order_of(("a1", "a", 1, 0), ("a2", "a", 2, 0), ("a3", "a", 3, 0), ("b1", "b", 4, 0))
    assert names(order) == ["a1", "b1", "a2", "a3"]


def test_of_one_tenant_the_earliest_due_comes_first_and_priority_before_all():
    order = order_of(("late", "a", 9, 0), ("soon", "a", 3, 0), ("low", "b", 1, 5))
    assert names(order) == ["soon", "late", "low"]


def test_service_counts_new_tokens_twice():
    assert price(RouteRequest("r", 100, 10)) == 120  # unknown, but at most 10
    assert price(RouteRequest("r", 100, 1000, expected_new_tokens=30.0)) == 160


def test_who_was_served_waits_for_the_others():
    order = FairOrder()
    served = add(order, "a1", "a")
    add(order, "a2", "a")
    add(order, "b1", "b")
    order.serve(served[1])
    order.remove(*served)
    assert names(order) == ["b1", "a2"]


def test_who_was_away_saves_nothing_up():
    order = FairOrder()
    add(order, "a0", "a")
    for n in range(10):
        order.serve(RouteRequest(f"gone{n}", 100, 10, tenant="a"))
    for n in range(1, 4):
        add(order, f"a{n}", "a", due_s=n)
        add(order, f"b{n}", "b", due_s=n)  # came late: level with a, not 1,200 tokens ahead
    assert names(order)[:4] == ["a0", "b1", "a1", "b2"]


def test_who_was_alone_for_long_owes_nothing_to_who_comes_now():
    order = FairOrder()
    for n in range(10):
        entry = add(order, f"gone{n}", "a")
        order.remove(*entry)
        order.serve(entry[1])
    for n in range(1, 4):
        add(order, f"b{n}", "b", due_s=n)
        add(order, f"a{n}", "a", due_s=n)
    assert names(order) == ["a1", "b1", "a2", "b2", "a3", "b3"]


def test_a_crowd_of_another_tenant_is_ahead_by_as_many_as_of_its_own():
    order = order_of(*[(f"a{n}", "a", n, 0) for n in range(9)], ("b0", "b", 0, 0), ("high", "c", 0, -1))
    assert order.ahead(Place(0, 5.0, 99), "b") == 1 + 1 + 1  # b0, a0, high
    assert order.ahead(Place(0, 4.5, 99), "a") == 5 + 1 + 1  # a0 to a4, b0, high


def test_it_goes_on_over_what_was_there_when_some_are_taken_meanwhile():
    order = FairOrder()
    entries = [add(order, f"a{n}", "a", due_s=n) for n in range(3)]
    seen = []
    for request, entry in zip(order, entries, strict=True):
        order.remove(*entry)
        seen.append(request.request_id)
    assert seen == ["a0", "a1", "a2"] and len(order) == 0
