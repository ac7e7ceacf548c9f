"""The length model learns distributions, from requests that ended and from those that were cut short."""

from random import Random

import numpy as np
import pytest

from shoal.router.contract import RouteRequest, Traits
from shoal.router.length import LengthModel, Reliability, edges_by_time

EDGES = np.array([10.0, 100.0, 1000.0, np.inf])


def request(application: str = "", max_new_tokens: int = 4096, **traits: object) -> RouteRequest:
    return RouteRequest("r", 50, max_new_tokens, traits=Traits(application=application, **traits))


def taught(*lessons: tuple[RouteRequest, int], times: int = 200) -> LengthModel:
    model = LengthModel(EDGES)
    for _ in range(times):
        for asked, tokens in lessons:
            model.learn(asked, tokens)
    return model


def test_bucket_edges_follow_completion_time():
    assert edges_by_time(0.02, (0.5, 2.0, 8.0)).tolist() == [25, 100, 400, np.inf]
    assert edges_by_time(1.0, (0.25, 0.5, 2.0)).tolist() == [1, 2, np.inf]


def test_untaught_model_says_something_of_every_bucket():
    chances = LengthModel(EDGES).predict(request())
    assert chances.sum() == pytest.approx(1) and (chances > 0).all()


def test_applications_are_told_apart():
    model = taught((request("chat"), 500), (request("label"), 3))
    assert model.predict(request("chat")).argmax() == 2
    assert model.predict(request("label")).argmax() == 0


def test_sampling_and_turn_are_told_apart_within_an_application():
    model = taught((request(temperature=0.0, turn=0), 3), (request(temperature=1.0, turn=6), 2000))
    assert model.predict(request(temperature=0.0, turn=0)).argmax() == 0
    assert model.predict(request(temperature=1.0, turn=6)).argmax() == 3


def test_nothing_is_expected_beyond_the_limit():
    model = taught((request(), 500))
    chances = model.predict(request(max_new_tokens=60))
    assert chances.tolist()[2:] == [0, 0] and chances.sum() == pytest.approx(1)
    assert model.expected(np.array([0.5, 0.5, 0, 0]), max_new_tokens=60) == 0.5 * 5 + 0.5 * 35


def test_request_that_was_cut_short_teaches_only_that_it_was_not_over():
    model = taught((request(), 500))
    before = model.predict(request())
    for _ in range(200):
        model.learn(request(), 50, over=False)  # stopped in the second bucket
    after = model.predict(request())
    assert after[0] <= before[0]
    assert after[2] / after[3] == pytest.approx(before[2] / before[3])


def test_chances_come_true_as_often_as_said():
    """Two applications with known lengths: half of the chats are short."""
    rng, model, reliability = Random(0), LengthModel(EDGES), Reliability()
    for n in range(4000):
        asked = request(rng.choice(["chat", "label"]))
        tokens = 3 if asked.traits.application == "label" or rng.random() < 0.5 else 500
        if n > 1000:
            reliability.add(model.predict(asked), model.bucket(tokens))
        model.learn(asked, tokens)
    assert reliability.error < 0.02
    assert model.predict(request("chat")) == pytest.approx([0.5, 0, 0.5, 0], abs=0.1)


def test_reliability_is_the_distance_between_said_and_come():
    reliability = Reliability()
    for came in (0, 0, 0, 1):
        reliability.add(np.array([0.95, 0.05]), came)
    # Tenth bin: said 3.8, came 3; first bin: said 0.2, came 1; eight words in all.
    assert reliability.error == pytest.approx((0.8 + 0.8) / 8)
