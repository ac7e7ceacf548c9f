import math
import random
from itertools import pairwise

import pytest

from shoal.bench.arrivals import Fixed, Gamma, Poisson, arrival_times, parse_arrival, with_tide
from shoal.bench.stats import deviation, mean
from shoal.proto.errors import InvalidArgument


@pytest.mark.parametrize(("arrival", "cv"), [(Poisson(), 1.0), (Gamma(0.3), 0.3), (Gamma(4.0), 4.0), (Fixed(), 0.0)])
def test_rate_and_burstiness_are_as_asked(arrival, cv):
    times = arrival_times(arrival, 8.0, 40_000, random.Random(0))
    gaps = [after - before for before, after in pairwise(times)]
    assert mean(gaps) == pytest.approx(1 / 8, rel=0.06)
    assert deviation(gaps) / mean(gaps) == pytest.approx(cv, rel=0.08, abs=1e-6)
    assert times[0] == 0 and min(gaps) >= 0


def test_a_seed_gives_the_same_times():
    assert arrival_times(Gamma(2), 3, 50, random.Random(7)) == arrival_times(Gamma(2), 3, 50, random.Random(7))


def test_parsing():
    assert parse_arrival("poisson") == Poisson()
    assert parse_arrival("fixed") == Fixed()
    assert parse_arrival("gamma:2.5") == Gamma(2.5)


@pytest.mark.parametrize(
    "text", ["", "uniform", "gamma", "gamma:", "gamma:0", "gamma:-1", "gamma:x", "gamma:inf", "gamma:nan"]
)
def test_nonsense_is_refused(text):
    with pytest.raises(InvalidArgument, match="arrival"):
        parse_arrival(text)


def test_a_rate_of_zero_is_refused():
    with pytest.raises(InvalidArgument, match="rate"):
        arrival_times(Poisson(), 0, 5, random.Random(0))


def test_a_tide_moves_arrivals_from_low_water_to_high_and_keeps_their_number():
    bent = with_tide([tenth / 10 for tenth in range(10_001)], 0.5, 100.0)
    assert bent == sorted(bent) and len(bent) == 10_001
    assert bent[10_000] == pytest.approx(1000.0, abs=0.1)
    high = sum(25 <= at_s % 100 < 75 for at_s in bent)  # the mean of the cosine over half a wave is 2 / pi
    assert high / (10_001 - high) == pytest.approx((1 + 1 / math.pi) / (1 - 1 / math.pi), rel=0.02)
