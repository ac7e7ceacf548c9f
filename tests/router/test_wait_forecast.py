"""The forecast of a wait: by the best rate that was seen at a like depth, and silent where nothing like it was seen."""

from random import Random

from shoal.router.wait_forecast import DEPTH, WINDOW_S, WaitForecast


def test_the_best_rate_of_late_counts():
    forecast = WaitForecast()
    forecast.started(ahead=9, waited_s=5.0, now_s=0.0)  # 2 per second
    forecast.started(ahead=19, waited_s=5.0, now_s=1.0)  # 4 per second
    assert forecast.wait_s(ahead=15, now_s=1.0) == 4.0


def test_what_a_few_show_says_nothing_about_a_crowd():
    forecast = WaitForecast()
    forecast.started(ahead=0, waited_s=3.0, now_s=0.0)
    assert forecast.wait_s(ahead=20, now_s=0.0) is None
    forecast.started(ahead=20 // DEPTH, waited_s=3.0, now_s=0.0)
    assert forecast.wait_s(ahead=20, now_s=0.0) == 21 / 2


def test_a_few_ahead_are_no_crowd():
    forecast = WaitForecast()
    forecast.started(ahead=3, waited_s=100.0, now_s=0.0)
    assert forecast.wait_s(ahead=DEPTH - 1, now_s=0.0) is None


def test_old_waits_are_forgotten():
    forecast = WaitForecast()
    forecast.started(ahead=9, waited_s=5.0, now_s=0.0)
    assert forecast.wait_s(ahead=9, now_s=WINDOW_S) == 5.0
    assert forecast.wait_s(ahead=9, now_s=WINDOW_S + 0.1) is None


def test_forgetting_those_that_are_outdone_changes_no_answer():
    rng, forecast, seen, now_s = Random(1), WaitForecast(), [], 0.0
    for _ in range(500):
        now_s += rng.expovariate(20)
        ahead, waited_s = rng.randint(0, 40), rng.uniform(0.1, 9.0)
        forecast.started(ahead, waited_s, now_s)
        seen.append((now_s, ahead, waited_s))
        asked = rng.randint(DEPTH, 60)
        rates = [(n + 1) / w for at_s, n, w in seen if now_s - at_s <= WINDOW_S and DEPTH * (n + 1) >= asked + 1]
        assert forecast.wait_s(asked, now_s) == ((asked + 1) / max(rates) if rates else None)
    assert len(forecast._seen) < len(seen) / 10
