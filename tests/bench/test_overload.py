"""What `bench overload` makes of its records."""

from shoal.bench.overload import SLACK_S, Run, score
from shoal.bench.record import Record
from shoal.bench.summary import Slo
from shoal.bench.workload import LoadRequest

SLO = Slo(prefill_ms_per_token=0.0, decode_step_ms=10.0)


def answered(ttft_s: float) -> Record:
    made = Record(LoadRequest(0, 0.0, 1, 2))
    made.add_chunk(ttft_s, 1)
    made.add_chunk(ttft_s + 0.02, 1)
    made.complete(ttft_s + 0.02)
    return made


def refused(kind: str, after_s: float, retry_after_s: float | None) -> Record:
    made = Record(LoadRequest(0, 0.0, 1, 2), retry_after_s=retry_after_s)
    made.fail(after_s, kind)
    return made


def run_of(rate: float, *records: Record) -> Run:
    return Run(rate, 2.0, records, SLO, deadline_s=0.4)


def test_goodput_is_what_meets_the_slo_per_second_against_the_best_run():
    best = run_of(2.0, answered(0.1), answered(0.1), answered(0.1), answered(0.1))
    over = run_of(6.0, answered(0.1), answered(0.1), answered(0.1), answered(0.6), refused("http_429", 0.01, 1.0))
    result = score([best, over], over, 2.0)
    assert (result["peak_goodput"], result["goodput"], result["goodput_share"]) == (2.0, 1.5, 0.75)
    assert (result["refused"], result["refused_badly"]) == (1, 0)


def test_a_refusal_without_a_time_to_come_back_or_of_another_kind_is_a_bad_one():
    over = run_of(1.0, refused("http_429", 0.1, None), refused("http_500", 0.1, 1.0), refused("http_503", 0.1, 1.0))
    assert score([over], over, 0.0)["refused_badly"] == 2


def test_who_hears_nothing_until_its_deadline_waited_too_long():
    in_time, late = 0.4 + SLACK_S, 0.41 + SLACK_S
    over = run_of(1.0, answered(in_time), answered(late), refused("http_503", late, 1.0))
    assert score([over], over, 0.0)["waited_past_deadline"] == 2
