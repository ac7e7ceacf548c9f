"""What is worth saving, and fetch or compute, worked out by hand."""

from __future__ import annotations

import pytest

from shoal.instance.kv_connector_policy import TRIAL_BLOCKS, Sightings, Speeds, is_worth_fetching


def test_a_first_sight_is_saved_until_saving_proves_useless():
    seen = Sightings(100)
    assert seen.is_worth_saving(seen.see(b"a", "s"))
    seen.saved = TRIAL_BLOCKS
    assert not seen.is_worth_saving(seen.see(b"b", "s"))
    assert seen.is_worth_saving(seen.see(b"b", "s"))  # needed a second time
    seen.reused = 26  # 5 % of 512 is 25.6
    assert seen.is_worth_saving(seen.see(b"c", "s"))


def test_what_is_saved_is_not_saved_again():
    seen = Sightings(100)
    seen.see(b"a", "s").saved = True
    assert not seen.is_worth_saving(seen.see(b"a", "s"))


def test_sightings_are_bounded_and_forget_the_longest_unseen():
    seen = Sightings(2)
    for name in (b"a", b"b", b"a", b"c"):
        seen.see(name, "s")
    assert list(seen.known) == [b"a", b"c"]


# a step: 5 ms + 0.1 ms per token; a load: 2 ms + 1 ms per MiB
SPEEDS = Speeds(a_ms=5.0, b_ms=0.1, overhead_ms=2.0, bytes_per_ms=1 << 20)


def test_prices_by_hand():
    assert SPEEDS.compute_ms(300, budget_tokens=256) == pytest.approx(2 * 5.0 + 0.1 * 300)
    assert SPEEDS.compute_ms(256, budget_tokens=256) == pytest.approx(5.0 + 25.6)
    assert SPEEDS.fetch_ms(8 << 20, queued_bytes=4 << 20) == pytest.approx(2.0 + 12.0)


@pytest.mark.parametrize(
    ("fetch_mib", "queued_mib", "fetches"),
    [
        (8, 0, True),  # 10 ms against 0.9 * 30.6
        (8, 16, True),  # 26 against 27.5
        (8, 18, False),  # 28 against 27.5
        (30, 0, False),
    ],
)
def test_a_fetch_must_be_cheaper_by_a_margin_with_what_is_queued_before_it(fetch_mib, queued_mib, fetches):
    asked = {"tokens": 256, "fetch_bytes": fetch_mib << 20, "queued_bytes": queued_mib << 20, "budget_tokens": 2048}
    assert is_worth_fetching(SPEEDS, **asked) is fetches


def test_speeds_follow_what_is_measured():
    speeds = Speeds()
    for _ in range(60):
        speeds.saw_step(4.0, 0)
        speeds.saw_step(4.0 + 0.02 * 500, 500)
        speeds.saw_load(1.0 + 64.0, 64 << 21)
        speeds.saw_load(1.0 + 0.25, 1 << 19)
    assert speeds.a_ms == pytest.approx(4.0, rel=0.01)
    assert speeds.b_ms == pytest.approx(0.02, rel=0.02)
    assert speeds.bytes_per_ms == pytest.approx(2 << 20, rel=0.05)
    assert speeds.overhead_ms == pytest.approx(1.0, rel=0.1)
