"""Step times against numbers worked out by hand."""

import pytest

from shoal.instance.step_time import HingeStepTime, LinearStepTime, StepWork
from shoal.proto.config import FakeEngineConfig


def test_the_default_coefficients_give_the_measured_prefill_and_decode_times_of_one_cpu_core() -> None:
    cpu = LinearStepTime.from_config(FakeEngineConfig())
    whole_prompt = StepWork(prefill_tokens=2048, prefill_pairs=2048**2 / 2)
    assert cpu.step_ms(whole_prompt) == pytest.approx(135, rel=0.05)
    assert cpu.step_ms(StepWork(decodes=1, context_tokens=64)) == pytest.approx(4.1, rel=0.15)


def test_each_term_of_the_linear_form_counts_once() -> None:
    time = LinearStepTime(a_ms=1, b_ms=2, c_ms=3, d_ms=4, e_ms=5)
    work = StepWork(prefill_tokens=10, prefill_pairs=2e6, decodes=7, context_tokens=9000)
    assert time.step_ms(work) == 1 + 2 * 10 + 3 * 2 + 4 * 7 + 5 * 9


def test_below_the_hinge_tokens_are_free_and_above_it_decodes_count_like_prefill() -> None:
    time = HingeStepTime(a_ms=1, b_ms=2, c_ms=0, d_ms=0, e_ms=0, hinge_tokens=64)
    assert time.step_ms(StepWork(prefill_tokens=60, decodes=4)) == 1
    assert time.step_ms(StepWork(prefill_tokens=60, decodes=14)) == 1 + 2 * 10
