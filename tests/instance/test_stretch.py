"""Sums of rising step times, and their inverse."""

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.instance.step_time import LinearStepTime, StepWork
from shoal.instance.stretch import Stretch


def test_a_stretch_of_two_decodes_adds_up_step_by_step():
    time = LinearStepTime(a_ms=5, b_ms=1, c_ms=1, d_ms=0.5, e_ms=100)
    single = [time.step_ms(StepWork(decodes=2, context_tokens=30 + 2 * step)) for step in range(4)]
    stretch = Stretch(1.0, single[0], time.growth_ms * 2)
    assert single == pytest.approx([9.0, 9.2, 9.4, 9.6])
    assert [stretch.end_s(k) for k in (1, 2, 3, 4)] == pytest.approx([1 + ms / 1000 for ms in accumulate(single)])
    assert stretch.step_ms(3) == pytest.approx(single[3])


@given(st.floats(0.01, 100), st.floats(0, 10), st.floats(0, 50))
def test_the_step_that_ends_at_a_time_or_later_is_the_first_to_do_so(first_ms, growth_ms, at_s):
    stretch = Stretch(20.0, first_ms, growth_ms)
    steps = stretch.steps_until(at_s)
    assert stretch.end_s(steps) >= at_s
    assert steps == 1 or stretch.end_s(steps - 1) < at_s
