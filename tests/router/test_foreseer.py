"""The foreseer speaks once it has seen enough, and of what it has seen."""

from dataclasses import replace

import pytest

from shoal.router.contract import InstanceLoad, RouteRequest
from shoal.router.foreseer import ENOUGH, REFRESH, Foreseer
from shoal.router.foresight import StepCoefficients
from shoal.router.length import LengthModel, edges_by_time
from shoal.router.step_fit import StepFit


def request(lora: str | None = None, limit: int = 4096) -> RouteRequest:
    return RouteRequest("r", 50, limit, lora=lora)


def test_nothing_is_predicted_before_enough_has_ended():
    foreseer = Foreseer(LengthModel(edges_by_time()))
    for _ in range(ENOUGH - 1):
        foreseer.ended(request(), 100, over=True)
    assert foreseer.predicted(request()).expected_new_tokens is None
    foreseer.ended(request(), 100, over=True)
    assert foreseer.predicted(request()).expected_new_tokens is not None


def test_prediction_is_near_what_requests_like_it_did():
    foreseer = Foreseer(LengthModel(edges_by_time(0.02)))
    for _ in range(300):
        foreseer.ended(request("poet"), 600, over=True)
        foreseer.ended(request("label"), 5, over=True)
    assert foreseer.predicted(request("poet")).expected_new_tokens == pytest.approx(600, rel=0.2)
    assert foreseer.predicted(request("label")).expected_new_tokens < 20
    assert foreseer.predicted(request("poet", limit=30)).expected_new_tokens <= 30
    assert foreseer.reliability.error < 0.1


def test_foresight_is_renewed_now_and_then_without_a_model_too():
    foreseer = Foreseer(None)
    for _ in range(2 * REFRESH):
        foreseer.ended(request(), 80, over=True)
    assert foreseer.foresight.new_tokens == 80
    assert len(foreseer.foresight.shares)
    assert foreseer.predicted(request()).expected_new_tokens is None


def test_step_times_are_learned_from_instances_that_only_decode():
    foreseer = Foreseer(None, fit=StepFit(StepCoefficients()))
    for running in range(1, 8000):
        load = InstanceLoad(running=running % 50 + 1, context_tokens=700 * (running % 31), step_ms=0.0)
        step_ms = 20.0 + 0.2 * load.running + 0.5 * load.context_tokens / 1000
        foreseer.reported(replace(load, step_ms=step_ms))
        foreseer.reported(replace(load, step_ms=900.0, uncached_prefill_tokens=512))  # who knows what was computed
        foreseer.reported(InstanceLoad())
    for _ in range(REFRESH):
        foreseer.ended(request(), 80, over=True)
    step = foreseer.foresight.step
    assert (step.a_ms, step.d_ms, step.e_ms) == pytest.approx((20.0, 0.2, 0.5), rel=0.05)
    assert step.b_ms == StepCoefficients().b_ms
