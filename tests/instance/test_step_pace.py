"""What is usual, and what a step may take at most."""

import pytest

from shoal.instance.step_pace import StepPace


def paced(*steps: tuple[float, int]) -> StepPace:
    pace = StepPace()
    for step_ms, tokens in steps:
        pace.saw(step_ms, tokens)
    return pace


def test_nothing_seen_is_no_usual_step_and_a_generous_guess():
    assert paced().usual_ms == 0.0
    assert paced().predict_ms(2048) == 2048 * 5.0


def test_the_usual_step_is_the_median_of_recent_ones():
    assert paced((10.0, 1), (12.0, 1), (900.0, 1)).usual_ms == 12.0


def test_a_long_prompt_after_many_decodes_is_given_its_time():
    pace = paced(*[(10.0, 4)] * 30, (1034.0, 1034))
    assert pace.predict_ms(2048) == 10.0 + 1.0 * 2048


def test_few_tokens_do_not_tell_what_a_token_costs():
    assert paced((10.0, 63)).token_ms is None


def test_the_cost_of_a_token_rises_at_once_and_falls_slowly():
    pace = paced((100.0, 100), (300.0, 100))
    assert pace.token_ms == 3.0
    pace.saw(100.0, 100)
    assert pace.token_ms == pytest.approx(3.0 - 2.0 / 16)
