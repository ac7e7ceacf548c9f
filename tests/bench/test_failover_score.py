import pytest

from shoal.bench.failover import FaultRun, score
from shoal.bench.failover_score import is_affected, judge, mismatches, recovery_s
from shoal.bench.record import Record
from shoal.bench.workload import LoadRequest

STEADY = [0.1 * number for number in range(1, 11)]  # to 1.0


def record(
    tokens: list[int], token_s: list[float], *, instance: str = "a", text: str = "", whole: bool = True
) -> Record:
    made = Record(LoadRequest(0, 0.0, 1, len(tokens)), instance=instance, token_ids=tokens, text=[text])
    for at_s in token_s:
        made.add_chunk(at_s, 1)
    if whole:
        made.complete(token_s[-1])
    else:
        made.fail(token_s[-1], "disconnect")
    return made


def test_recovery_ends_with_the_token_after_the_pause():
    assert recovery_s([*STEADY, 1.8, 1.9], 1.05) == pytest.approx(0.75)


def test_a_token_that_was_on_its_way_is_no_recovery():
    assert recovery_s([*STEADY, 1.06, 2.5, 2.6], 1.05) == pytest.approx(1.45)


def test_without_a_pause_the_next_token_counts():
    assert recovery_s([*STEADY, 1.1, 1.2], 1.05) == pytest.approx(0.05)


def test_a_later_pause_is_not_counted_twice():
    assert recovery_s([*STEADY, 1.8, 1.9, 5.0], 1.05) == pytest.approx(0.75)


def test_a_stream_that_never_went_on_has_no_recovery():
    assert recovery_s(STEADY, 1.05) is None


def test_only_unfinished_streams_of_the_victim_are_affected():
    assert is_affected(record([1], [1.0]), "a", 0.5)
    assert not is_affected(record([1], [1.0]), "a", 1.5)
    assert not is_affected(record([1], [1.0], instance="b"), "a", 0.5)


@pytest.mark.parametrize(
    ("got", "wanted", "count"), [([1, 2], [1, 2], 0), ([1, 3], [1, 2], 1), ([1], [1, 2], 1), ([1, 2, 2], [1, 2], 1)]
)
def test_every_wrong_missing_or_doubled_token_counts(got, wanted, count):
    assert mismatches(got, wanted) == count


def test_a_lost_stream_is_lost_and_not_also_mismatched():
    reference = record([1, 2, 3, 4], STEADY[:4])
    lost = judge(record([1, 2], STEADY[:2], whole=False), reference, "a", 0.15)
    assert (lost.lost, lost.token_mismatches) == (True, 0)
    wrong = judge(record([1, 9], STEADY[:2], whole=False), reference, "a", 0.15)
    assert (wrong.lost, wrong.token_mismatches) == (True, 1)


def test_a_difference_in_text_alone_is_seen():
    result = judge(record([1], [1.0], text="x"), record([1], [1.0], text="y"), "a", 0.5)
    assert (result.token_mismatches, result.text_equal) == (0, False)


def test_the_result_sums_over_runs():
    reference = record([1, 2, 3, 4], STEADY[:4])
    streams = [
        judge(record([1, 2, 9, 4], [0.1, 0.2, 0.9, 1.0]), reference, "a", 0.25),
        judge(reference, reference, "b", 0.25),
    ]
    result = score(
        [FaultRun("SIGKILL", "a", {"a": 2}, True, streams, 4.0), FaultRun("SIGSTOP", "a", {"a": 2}, False, [], None)]
    )
    assert (result["runs"], result["faults_proved"], result["not_rejoined"]) == (2, 1, 1)
    assert (result["token_mismatches"], result["lost_requests"], result["streams_affected"]) == (1, 0, 1)
    assert result["recovery_ms_p50"] == result["recovery_ms_p99"] == pytest.approx(650)
    assert result["rejoin_s_p50"] == 4.0


def test_no_runs_are_no_numbers():
    result = score([])
    assert result["runs"] == 0 and result["recovery_ms_p99"] is None and result["rejoin_s_p50"] is None
