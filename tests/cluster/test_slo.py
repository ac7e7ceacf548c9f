"""The promise to clients, by hand: base 0.5 s, 0.1 ms per prompt token alone, a lone step of 20 ms."""

from shoal.cluster.slo import Attainment, attainment, service_class, ttft_goal_s
from shoal.proto.config import SloConfig

SLO = SloConfig(ttft_base_s=0.5, prefill_ms_per_token=0.1, decode_step_ms=20)


def test_the_first_token_may_take_twice_the_uncached_prefill_and_the_base() -> None:
    assert ttft_goal_s(SLO, 0) == 0.5
    assert ttft_goal_s(SLO, 5000) == 1.5


def test_both_promises_must_hold_and_the_first_broken_one_is_named() -> None:
    kept = {"uncached_tokens": 5000, "ttft_s": 1.5, "tpot_s": 0.06}
    assert attainment(SLO, **kept) is Attainment.MET
    assert attainment(SLO, **kept | {"ttft_s": 1.51}) is Attainment.TTFT
    assert attainment(SLO, **kept | {"tpot_s": 0.061}) is Attainment.TPOT
    assert attainment(SLO, **kept | {"ttft_s": 2.0, "tpot_s": 1.0}) is Attainment.TTFT


def test_a_class_is_the_sign_of_the_priority() -> None:
    assert [service_class(priority) for priority in (-7, 0, 3)] == ["high", "normal", "low"]
