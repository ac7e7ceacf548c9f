import asyncio
import time

from shoal.bench.driver import drive
from shoal.bench.record import End, Record
from shoal.bench.workload import LoadRequest


class Instant:
    """Answers at once; `most` is the highest number under way."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self.delay_s, self.now, self.most = delay_s, 0, 0

    async def run(self, record: Record) -> None:
        record.sent_s = time.perf_counter()
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(self.delay_s)
        self.now -= 1
        record.complete(time.perf_counter())


def requests(count: int, gap_s: float = 0.0) -> list[LoadRequest]:
    return [LoadRequest(index, index * gap_s, 1, 1) for index in range(count)]


async def test_open_loop_does_not_wait_for_answers():
    client = Instant(delay_s=0.2)
    run = await drive(client, requests(50), timeout_s=30)
    assert client.most == 50
    assert all(record.end is End.COMPLETED for record in run.records)


async def test_nothing_is_sent_before_it_is_due():
    run = await drive(Instant(), requests(5, gap_s=0.02), timeout_s=30)
    assert [record.request.index for record in run.records] == [0, 1, 2, 3, 4]
    assert all(record.sent_s >= run.began_s + record.request.due_s for record in run.records)


async def test_a_late_generator_says_so():
    class Blocking(Instant):
        async def run(self, record: Record) -> None:
            time.sleep(0.02)
            await super().run(record)

    run = await drive(Blocking(), requests(5), timeout_s=30)
    assert max(record.lateness_s for record in run.records) >= 0.05


async def test_closed_loop_keeps_to_its_width():
    client = Instant(delay_s=0.001)
    run = await drive(client, requests(40), timeout_s=30, concurrency=3)
    assert client.most == 3
    assert len(run.records) == 40


async def test_at_the_deadline_the_unfinished_have_failed():
    run = await drive(Instant(delay_s=60), requests(3), timeout_s=0.1)
    assert run.timed_out
    assert {record.error_kind for record in run.records} == {"timeout"}


async def test_stopping_by_hand_keeps_what_was_measured():
    stop = asyncio.Event()
    seen = []

    def finished(record: Record) -> None:
        seen.append(record)
        if len(seen) == 3:
            stop.set()

    run = await drive(Instant(), requests(1000, gap_s=0.005), timeout_s=60, stop=stop, finished=finished)
    assert run.interrupted
    assert 3 <= sum(record.end is End.COMPLETED for record in run.records) < 1000
