"""Times computed by hand: 10 ms a step, one instance, one frontend at the other end of its reports."""

import pytest

from shoal.bench.sim.channel import COALESCE_S, HEARTBEAT_S, Report
from shoal.bench.sim.events import Events
from shoal.bench.sim.instance import SimInstance
from shoal.bench.sim.request import SimRequest
from shoal.instance.step_model import StepModel
from shoal.instance.step_time import LinearStepTime


class Bench:
    """An instance, its clock, and what it said."""

    def __init__(self, *, fast: bool = True, step_ms: float = 10, **sizes: int) -> None:
        sizes = {"block_size": 4, "total_blocks": 64, "max_num_batched_tokens": 16, "max_num_seqs": 8} | sizes
        self.events = Events()
        self.reports: list[Report] = []
        self.first_s: dict[str, float] = {}
        self.last_s: dict[str, float] = {}
        self.instance = SimInstance(
            "i0",
            StepModel(**sizes, max_model_len=200),
            LinearStepTime(step_ms, 0, 0, 0, 0),
            self.events,
            inboxes=[self.reports.append],
            on_first=lambda request, now_s: self.first_s.setdefault(request.request_id, now_s),
            on_last=lambda request, now_s: self.last_s.setdefault(request.request_id, now_s),
            fast=fast,
        )

    def submit(self, at_s: float, name: str, prompt: int, output: int) -> None:
        self.events.at(at_s, self.instance.submit, SimRequest(name, at_s, prompt, output, 100))

    def run(self, until_s: float) -> None:
        while self.events.next_s() <= until_s:
            self.events.happen()


@pytest.mark.parametrize("fast", [True, False])
def test_an_arrival_joins_at_the_end_of_the_step_in_flight(fast):
    bench = Bench(fast=fast)
    bench.submit(1.0, "a", 4, 10)
    bench.submit(1.033, "b", 4, 3)  # a's fourth step is in flight until 1.04
    bench.run(2.0)
    assert bench.first_s == pytest.approx({"a": 1.01, "b": 1.05})
    assert bench.last_s == pytest.approx({"a": 1.10, "b": 1.07})
    assert bench.instance.steps == 10


def test_an_abort_frees_its_blocks_between_two_steps():
    bench = Bench()
    bench.submit(0.0, "a", 4, 100)
    bench.events.at(0.095, bench.instance.abort, "a")
    bench.run(0.0999)
    assert bench.instance.kv_use > 0
    bench.run(0.2)
    assert (bench.instance.kv_use, bench.instance.steps, bench.instance.requests) == (0, 10, {})


def test_plain_decodes_are_silent_but_for_the_heartbeat():
    bench = Bench()
    bench.submit(1.0, "a", 4, 100)
    bench.run(2.4)
    told = [(round(r.arrives_s, 6), r.accepted, r.started, r.ended) for r in bench.reports if r.arrives_s >= 1]
    assert told == [
        (1.01, ["a"], ["a"], []),
        (1.26, [], [], []),
        (1.51, [], [], []),
        (1.76, [], [], []),
        (2.0, [], [], ["a"]),
        (2.25, [], [], []),
    ]
    assert HEARTBEAT_S == 0.25
    assert [r.load.context_tokens for r in bench.reports if r.arrives_s > 1][:3] == [4, 29, 54]


def test_news_without_tokens_waits_for_others_a_while():
    """A long prompt's chunks change the load, and make no token."""
    bench = Bench(max_num_batched_tokens=4, step_ms=11)
    bench.submit(0.012, "a", 40, 1)
    bench.run(0.2)
    told = [round(r.arrives_s, 6) for r in bench.reports]
    assert told == [0.056, 0.111, 0.122]  # the first chunk that ends after COALESCE_S of silence, twice; then the token
    assert COALESCE_S == 0.05


def test_an_idle_instance_does_not_count_as_busy_and_a_stopped_one_says_nothing():
    bench = Bench()
    bench.run(1.0)
    assert [r.load.running for r in bench.reports] == [0] * len(bench.reports)
    assert len(bench.reports) == 4
    bench.instance.stop()
    bench.run(5.0)
    assert len(bench.reports) == 4
