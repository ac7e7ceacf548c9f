"""The online fit finds the coefficients that made the steps, follows a change, and forgets nothing that it does not see
anew."""

from dataclasses import astuple
from random import Random

import pytest

from shoal.router.foresight import StepCoefficients
from shoal.router.step_fit import StepFit

TRUTH = StepCoefficients(8.0, 0.04, 2.0, 0.05, 0.1)


def feed(fit: StepFit, truth: StepCoefficients, count: int, seed: int = 0, prefill: bool = True, noise: float = 0.0):
    rng = Random(seed)
    for _ in range(count):
        tokens = rng.choice([0, 512, 2048]) if prefill else 0
        pairs, decodes, context = tokens * rng.uniform(0, 4000), rng.randint(0, 200), rng.uniform(0, 200_000)
        ms = truth.a_ms + truth.b_ms * tokens + truth.c_ms * pairs / 1e6 + truth.d_ms * decodes
        ms = (ms + truth.e_ms * context / 1000) * rng.uniform(1 - noise, 1 + noise)
        fit.observe(prefill_tokens=tokens, prefill_pairs=pairs, decodes=decodes, context_tokens=context, step_ms=ms)


def test_finds_what_made_the_steps():
    fit = StepFit(StepCoefficients())
    feed(fit, TRUTH, 500)
    assert astuple(fit.coefficients) == pytest.approx(astuple(TRUTH), rel=0.02)


def test_noise_averages_out():
    fit = StepFit(StepCoefficients())
    feed(fit, TRUTH, 5000, noise=0.1)
    assert astuple(fit.coefficients) == pytest.approx(astuple(TRUTH), rel=0.1)


def test_follows_a_machine_that_becomes_slower():
    fit, slower = StepFit(TRUTH), StepCoefficients(*(2 * value for value in astuple(TRUTH)))
    feed(fit, TRUTH, 500)
    feed(fit, slower, 4000, seed=1)
    assert astuple(fit.coefficients) == pytest.approx(astuple(slower), rel=0.05)


def test_long_time_without_prefill_leaves_its_price_as_it_was():
    fit = StepFit(StepCoefficients())
    feed(fit, TRUTH, 500)
    feed(fit, TRUTH, 20_000, seed=1, prefill=False, noise=0.05)
    assert fit.coefficients.b_ms == pytest.approx(TRUTH.b_ms, rel=0.05)
    feed(fit, TRUTH, 200, seed=2)
    assert astuple(fit.coefficients) == pytest.approx(astuple(TRUTH), rel=0.1)


def test_no_coefficient_is_ever_negative():
    fit = StepFit(TRUTH)
    feed(fit, StepCoefficients(8.0, 0.0, 0.0, 0.0, 0.0), 2000, noise=0.2)
    assert min(astuple(fit.coefficients)) >= 0
