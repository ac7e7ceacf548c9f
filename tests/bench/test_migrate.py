"""The numbers of a move, from what a client saw, by hand."""

import pytest

from shoal.bench.migrate import mean_gap_s, measured, migrate_config
from shoal.bench.record import Record
from shoal.bench.workload import LoadRequest
from shoal.proto.errors import ServerFault
from shoal.proto.v1 import controller_pb2 as cpb


def record_of(*times_s: float) -> Record:
    record = Record(LoadRequest(0, 0.0, 10, len(times_s)))
    for number, at_s in enumerate(times_s):
        record.add_chunk(at_s, 1)
        record.token_ids.append(number)
    return record


def test_the_pause_is_the_longest_gap_around_the_move_and_not_one_before_it():
    record = record_of(1.0, 1.5, 1.6, 1.7, 1.9, 2.0)  # 0.5 s before the order at 1.65, 0.2 s after it
    report = cpb.MoveReport(outcome="committed", copy_s=0.1, parked_s=0.05, sent_bytes=7, stages=2)
    row = measured(record, record_of(5.0, 5.1, 5.2, 5.3, 5.4, 5.5), report, 1.65, 1.95)
    assert row["pause_ms"] == pytest.approx(200) and row["move_ms"] == pytest.approx(150)
    assert row["median_step_ms"] == pytest.approx(300) and row["equal"]
    assert row["blocking_copy_pause_ms"] == pytest.approx(300)


def test_a_token_that_differs_is_told():
    other = record_of(1.0, 2.0)
    other.token_ids[1] = 9
    assert not measured(record_of(1.0, 2.0), other, cpb.MoveReport(), 0.0, 3.0)["equal"]


def test_only_gaps_inside_of_a_window_count():
    assert mean_gap_s([record_of(0.0, 1.0, 1.2, 1.6, 9.0)], 0.5, 2.0) == pytest.approx(0.3)
    with pytest.raises(ServerFault, match="no token of the others"):
        mean_gap_s([record_of(0.0)], 0.0, 1.0)


def test_nothing_moves_by_itself_while_moves_are_measured():
    config = migrate_config("tiny", "fake")
    assert not config.migration.enabled and config.engine.pin_cores and config.instances == 2
