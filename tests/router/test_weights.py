"""Which weights files are believed."""

import json

import pytest

from shoal.proto.errors import InvalidArgument
from shoal.router.delay import TERMS
from shoal.router.features import FEATURES
from shoal.router.profile import shipped_weights
from shoal.router.weights import MOST_BYTES, RouterWeights, Seen, least_slope, read_weights, write_weights

GOOD = {"version": "v", "terms": {"queue_ms": 2.0}, "residual": {"batch": 0.5, "long_batch": -0.1}, "band": 0.2}


def test_a_file_comes_back_as_it_was_written():
    weights = RouterWeights("v", {"queue_ms": 2.0}, {"miss": -1.0}, 0.1, {"miss": Seen(0.0, 1.0, 0.5, 0.2)})
    assert read_weights(write_weights(weights)) == weights


def test_a_term_that_is_not_named_has_factor_one():
    assert read_weights(json.dumps(GOOD).encode()).factor("pace_ms") == 1.0


@pytest.mark.parametrize(
    ("poison", "words"),
    [
        ({"terms": {"queue_ms": -1.0}}, "terms.queue_ms"),
        ({"terms": {"queue_ms": 0.0}}, "terms.queue_ms"),  # load for nothing
        ({"terms": {"late_ms": 1e9}}, "terms.late_ms"),
        ({"terms": {"luck_ms": 1.0}}, "luck_ms"),
        ({"residual": {"queue": -0.1}}, "residual.queue"),
        ({"residual": {"batch": 0.1, "long_batch": -0.1}}, "never falls with load"),  # 0.1 - 0.1 x 5 for long prompts
        ({"residual": {"name": 0.1}}, "name"),
        ({"residual": {"miss": 11.0}}, "residual.miss"),
        ({"band": 0.9}, "band"),
        ({"version": ""}, "version"),
        ({"seen": {"miss": {"low": 0, "high": 1e9, "mean": 0, "deviation": 0}}}, "seen.miss"),
        ({"more": 1}, "more"),
        ({"terms": "all"}, "terms"),
    ],
)
def test_a_poisoned_file_is_refused_by_name(poison, words):
    with pytest.raises(InvalidArgument, match=words):
        read_weights(json.dumps(GOOD | poison).encode())


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b'{"version": "v", "band": NaN}', b"\xff" * 10, b" " * (MOST_BYTES + 1)]
)
def test_bytes_that_are_no_file_are_refused(raw):
    with pytest.raises(InvalidArgument, match="weights"):
        read_weights(raw)


def test_the_least_slope_is_that_of_the_request_that_makes_it_least():
    residual = {"batch": 1.0, "long_batch": -0.1, "answer_batch": 0.2}
    assert least_slope(residual, "batch") == pytest.approx(0.5)  # the longest prompt with the shortest answer
    assert least_slope({}, "queue") == 0.0


def test_all_coefficients_together_are_few():
    assert len(TERMS) + len(FEATURES) <= 40


def test_the_weights_that_come_with_this_version_are_believed_and_say_where_they_come_from():
    weights = shipped_weights()
    came = weights.provenance
    trained = any(weights.residual.values()) or any(factor != 1 for factor in weights.terms.values())
    assert came.note
    assert not trained or (came.data and came.episodes and came.versions and came.scores and weights.seen)
