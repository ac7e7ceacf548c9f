from shoal.bench.priority import HIGH, score, settings
from shoal.bench.record import Record
from shoal.bench.workload import LoadRequest, RequestClass

REQUESTS = [LoadRequest(0, 0.0, 5, 5, kind=HIGH), LoadRequest(1, 0.1, 5, 5, kind=RequestClass("normal"))]


def test_the_same_high_requests_come_in_all_three_settings():
    made = settings(REQUESTS)
    assert [one.index for one in made["idle"]] == [0]
    assert [(one.index, one.kind.name, one.kind.priority) for one in made["without"]] == [
        (0, "high", 0),
        (1, "normal", 0),
    ]
    assert made["with"] == REQUESTS


def test_each_class_is_scored_by_itself():
    records = [Record(one, sent_s=1.0) for one in REQUESTS]
    records[0].add_chunk(1.5, 1)
    records[1].add_chunk(3.0, 1)
    row = score("with", records)
    assert (row["high_ttft_ms_p99"], row["normal_ttft_ms_p50"], row["high_requests"]) == (500, 2000, 1)
