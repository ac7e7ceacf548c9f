"""`bench profile`: what it takes from what a client saw, and that it finds the coefficients of a known engine."""

import pytest

from shoal.bench import profile
from shoal.bench.record import Record
from shoal.bench.sim.fit import read_table
from shoal.bench.workload import LoadRequest
from shoal.instance.step_time import LinearStepTime, StepWork


def record(*chunk_s: float) -> Record:
    return Record(LoadRequest(0, 0.0, 4, len(chunk_s)), chunk_s=list(chunk_s), chunk_tokens=[1] * len(chunk_s))


def test_a_batch_counts_while_all_of_it_decode():
    early, late = record(0.0, 1.0, 2.0, 2.5, 3.0), record(2.0, 2.5, 3.0, 4.0)
    assert profile.together_ms([early, late]) == pytest.approx(500)
    assert profile.together_ms([record(0.0, 1.0), record(5.0, 6.0)]) == pytest.approx(1000)


class Known:
    """An engine whose steps take what is known, and a clock that only it moves."""

    def __init__(self, times: LinearStepTime) -> None:
        self.times, self.batches = times, {}

    async def run(self, asked: Record) -> None:
        tokens, output_tokens = asked.request.input_tokens, asked.request.output_tokens
        asked.sent_s = 0.0
        first_ms = self.times.step_ms(StepWork(tokens, tokens**2 / 2))
        step_ms = self.times.step_ms(StepWork(0, 0, self.batch, self.batch * (tokens + output_tokens // 2)))
        for number in range(output_tokens):
            asked.add_chunk((first_ms + number * step_ms) / 1e3 + 1.0, 1)
        asked.sent_s = 1.0
        asked.complete(asked.chunk_s[-1])


async def test_the_table_tells_the_engine_that_made_it(tmp_path, monkeypatch):
    engine = Known(LinearStepTime(5.0, 0.03, 20.0, 0.1, 0.2))
    answered = profile.Profiler._answered

    async def known_batch(self, tokens, output_tokens, batch):
        engine.batch = batch
        return await answered(self, tokens, output_tokens, batch)

    monkeypatch.setattr(profile.Profiler, "_answered", known_batch)
    points = await profile.Profiler(engine, 1, 10.0).measure((16, 256, 1024), (1, 8, 32), (64, 512), 1)
    profile.write_table(points, tmp_path / "table.csv")
    assert [row.ms for row in read_table(tmp_path / "table.csv")] == pytest.approx([point.ms for point in points])
    assert len(points) == 3 + 6
    fitted = profile.fits_of(points)["linear"]
    assert fitted.pop("mape") < 0.01
    assert fitted == pytest.approx({"a_ms": 5.0, "b_ms": 0.03, "c_ms": 20.0, "d_ms": 0.1, "e_ms": 0.2}, rel=0.05)
