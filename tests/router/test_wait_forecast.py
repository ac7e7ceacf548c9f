"""The forecast of a wait: by the rate that was seen at a like depth, and silent where nothing like it was seen."""

from random import Random

import pytest

from shoal.router.wait_forecast import DEPTH, SAMPLES, WINDOW_S, WaitForecast


def test_the_rate_is_what_all_of_late_show_together():
    forecast = WaitForecast()
    forecast.started(served=9, waited_s=5.0, now_s=0.0)  # 10 in 5 s
    forecast.started(served=19, waited_s=5.0, now_s=1.0)  # 20 in 5 s
    assert forecast.wait_s(ahead=14, now_s=1.0) == 5.0  # 15, of which 3 per second are served


def test_what_a_few_show_says_nothing_about_a_crowd():
    forecast = WaitForecast()
    forecast.started(served=0, waited_s=3.0, now_s=0.0)
    assert forecast.wait_s(ahead=30, now_s=0.0) is None
    forecast.started(served=7, waited_s=4.0, now_s=0.0)
    assert forecast.wait_s(ahead=8 * DEPTH - 1, now_s=0.0) == 8 * DEPTH / 2
    assert forecast.wait_s(ahead=8 * DEPTH, now_s=0.0) is None


def test_a_few_ahead_are_no_crowd():
    forecast = WaitForecast()
    forecast.started(served=3, waited_s=100.0, now_s=0.0)
    assert forecast.wait_s(ahead=DEPTH - 1, now_s=0.0) is None


def test_old_waits_are_forgotten_and_so_are_too_many():
    forecast = WaitForecast()
    forecast.started(served=9, waited_s=5.0, now_s=0.0)
    assert forecast.wait_s(ahead=9, now_s=WINDOW_S) == 5.0
    assert forecast.wait_s(ahead=9, now_s=WINDOW_S + 0.1) is None
    for _ in range(SAMPLES + 10):
        forecast.started(served=9, waited_s=5.0, now_s=20.0)
    assert len(forecast._seen) == SAMPLES


def test_the_sums_are_those_of_the_samples_in_the_window():
    rng, forecast, seen, now_s = Random(1), WaitForecast(), [], 0.0
    for _ in range(500):
        now_s += rng.expovariate(20)
        served, waited_s = rng.randint(0, 40), rng.randint(100, 9000) / 1e3
        forecast.started(served, waited_s, now_s)
        seen.append((now_s, served + 1, waited_s))
        ahead = rng.randint(DEPTH, 200)
        near = [(n, w) for at_s, n, w in seen if now_s - at_s <= WINDOW_S and DEPTH << (n.bit_length() - 1) > ahead]
        wait_s = (ahead + 1) * sum(w for _, w in near) / sum(n for n, _ in near) if near else None
        assert forecast.wait_s(ahead, now_s) == (wait_s if wait_s is None else pytest.approx(wait_s))
