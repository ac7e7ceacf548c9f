"""What the learned part sees, by hand."""

from math import log, log1p

import numpy as np
import pytest

from shoal.router.contract import InstanceLoad, RouteRequest
from shoal.router.features import FEATURES, features, of_request
from tests.tools.routing import CHAIN, view_of

IDLE = InstanceLoad(free_blocks=100, step_ms=10.0)
BUSY = InstanceLoad(running=2, waiting=1, queued_prefill_tokens=1000, context_tokens=10_000, free_blocks=25, step_ms=20)
REQUEST = RouteRequest("r", 105, 400, CHAIN, expected_new_tokens=300.0)


def rows(**instances):
    view = view_of(**instances)
    question = view.question(REQUEST, 0.0)
    return dict(zip(FEATURES, features(question, np.array([50.0, 100.0])[: len(instances)]).T, strict=True))


def test_features_are_differences_from_the_least_and_ratios():
    seen = rows(idle=(IDLE, 0), busy=(BUSY, 10))
    long, answer = log1p(5 / 1000), log1p(3)
    expected = {
        "queue": log1p(1),
        "batch": log1p(3),
        "context": log1p(1),
        "waiting": log1p(1),
        "full": 0.75,
        "miss": 5 / 105,
        "dear": log(2),
        "long_queue": long * log1p(1),
        "long_batch": long * log1p(3),
        "answer_batch": answer * log1p(3),
        "answer_context": answer * log1p(1),
        "slow": log(2),
    }
    assert {name: column[1] for name, column in seen.items()} == pytest.approx(expected)
    assert {name for name, column in seen.items() if column[0]} == {"miss"}


def test_equal_candidates_look_alike_however_many_and_however_loaded():
    seen = rows(a=(BUSY, 0), b=(BUSY, 0))
    assert all(column[0] == pytest.approx(column[1]) for name, column in seen.items() if name != "dear")
    assert seen["batch"].tolist() == [0.0, 0.0]


def test_a_request_is_two_numbers():
    assert of_request(view_of(a=(IDLE, 0)).question(REQUEST, 0.0)) == pytest.approx((log1p(0.105), log1p(3)))
