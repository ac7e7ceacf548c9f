import pytest

from shoal.bench.rebalance import Load, fleet_of, gains
from shoal.proto.errors import InvalidArgument


def row(policy: str, p99: float) -> dict[str, object]:
    return {"fleet": "fake:4", "share": 0.85, "policy": policy, "ttft_ms_p99": p99}


def test_gains_are_what_the_others_p99_is_over_ours():
    rows = [row("round_robin", 900), row("least_work", 450), row("least_work+migration", 300)]
    assert gains(rows) == [{"fleet": "fake:4", "share": 0.85, "over_round_robin": 3.0, "over_least_work": 1.5}]


def test_the_same_seed_gives_the_same_requests_within_their_caps():
    load = Load(300, 90, 1.2, 3.0, 1000, 200)
    first, second = load.requests(10.0, 5.0, 7), load.requests(10.0, 5.0, 7)
    assert first == second and len(first) == 50
    assert max(one.input_tokens for one in first) <= 1000 and max(one.output_tokens for one in first) <= 200


@pytest.mark.parametrize("text", ["fake", "fake:1", "toy:4", "fake:x"])
def test_a_fleet_that_cannot_be_is_refused(text: str):
    with pytest.raises(InvalidArgument, match="fleet"):
        fleet_of(text)
