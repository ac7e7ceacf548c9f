"""The foreseer speaks once it has seen enough, and of what it has seen."""

import pytest

from shoal.router.contract import RouteRequest
from shoal.router.foreseer import ENOUGH, REFRESH, Foreseer
from shoal.router.length import LengthModel, edges_by_time


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
