"""Numbers of three requests, by hand."""

import pytest

from shoal.bench.sim.events import Events
from shoal.bench.sim.request import End, SimRequest
from shoal.bench.sim.results import Results, Slo, summarize
from shoal.bench.sim.sampler import MAX_SAMPLES, Sample, Sampler
from shoal.instance.step_time import LinearStepTime

SLO = Slo(LinearStepTime(a_ms=11, b_ms=1, c_ms=0, d_ms=0, e_ms=0))


def ended(arrival_s: float, first_s: float, last_s: float, output: int, *, cached: int = 0) -> SimRequest:
    request = SimRequest(f"r{arrival_s}", arrival_s, 100, output, 100)
    request.first_s, request.last_s, request.cached_tokens, request.end = first_s, last_s, cached, End.COMPLETED
    return request


def results() -> Results:
    out = Results()
    out.add(ended(0.0, 0.7, 1.0, 11), 1.0)  # TTFT 0.7 of 0.5 + 2 * 0.111; TPOT 30 ms of 33
    out.add(ended(1.0, 1.71, 2.0, 1, cached=50), 2.0)  # TTFT 0.71 of 0.5 + 2 * 0.061; no TPOT
    lost = SimRequest("lost", 1.0, 100, 5, 100)
    lost.end = End.EXPIRED
    out.add(lost, 4.0)
    return out


def test_goodput_counts_what_met_both_limits_and_every_other_request_as_missed():
    summary = summarize(results(), SLO)
    assert summary["ends"] == {"completed": 2, "expired": 1}
    assert (summary["goodput"], summary["slo_met_share"]) == pytest.approx((1 / 4, 1 / 3))


def test_latencies_are_those_of_completed_requests():
    summary = summarize(results(), SLO)
    assert summary["ttft_ms_mean"] == pytest.approx(705)
    assert summary["tpot_ms_p99"] == pytest.approx(30)  # the one with a second token
    assert summary["e2e_ms_p50"] == pytest.approx(1000)
    assert summary["hit_rate"] == pytest.approx(0.25)
    assert summary["output_throughput"] == pytest.approx(12 / 4)


def test_no_request_at_all_gives_zeros():
    assert summarize(Results(), SLO)["goodput"] == 0


class Fleet:
    """Two instances whose load never changes."""

    def __init__(self) -> None:
        self.events = Events()
        self.instances = {"a": self, "b": self}
        self.requests = [1, 2]
        self.kv_use = 0.5


def test_a_sampler_keeps_the_whole_run_in_a_bounded_number_of_samples():
    fleet, sampler = Fleet(), Sampler(every_s=1.0)
    sampler.start(fleet)
    while fleet.events.next_s() < 5 * MAX_SAMPLES:
        fleet.events.happen()
    assert sampler.samples[0] == Sample(0.0, 2, 2.0, 2, 0.5, 0.5)
    assert MAX_SAMPLES / 2 <= len(sampler.samples) < MAX_SAMPLES
    assert sampler.samples[-1].at_s > 5 * MAX_SAMPLES - 2 * sampler.every_s
    assert sampler.max_over_mean() == 1.0
