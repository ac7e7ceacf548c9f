import pytest

from shoal.bench.record import Record
from shoal.bench.summary import Slo, detail, over_baseline, parse_goodput, read_result, summarize
from shoal.bench.workload import LoadRequest
from shoal.proto.errors import InvalidArgument

# What `vllm bench serve` 0.32 puts into its result, with and without --save-detailed.
THEIRS = {
    "duration", "completed", "failed", "total_input_tokens", "total_output_tokens", "request_throughput",
    "request_goodput", "output_throughput", "total_token_throughput", "max_output_tokens_per_s",
    "max_concurrent_requests", "rtfx",
    *(f"{kind}_{name}_ms" for kind in ("mean", "median", "std", "p99") for name in ("ttft", "tpot", "itl", "e2el")),
}  # fmt: skip
THEIR_ARRAYS = {
    "input_lens",
    "output_lens",
    "ttfts",
    "itls",
    "latencies",
    "start_times",
    "queue_times",
    "generated_texts",
    "errors",
}


def record(sent_s: float, chunks_s: list[float], *, due_s: float | None = None) -> Record:
    made = Record(LoadRequest(0, 0.0, 100, len(chunks_s)), due_s=sent_s if due_s is None else due_s, sent_s=sent_s)
    for at_s in chunks_s:
        made.add_chunk(at_s, 1)
    made.complete(chunks_s[-1])
    return made


def failed(kind: str) -> Record:
    made = Record(LoadRequest(0, 0.0, 100, 5), due_s=1.0, sent_s=1.0)
    made.fail(2.0, kind, "why")
    return made


def test_all_keys_of_vllm_bench_serve_are_there():
    records = [record(0.0, [0.1, 0.2])]
    assert summarize(records, duration_s=1.0).keys() >= THEIRS
    assert detail(records).keys() == THEIR_ARRAYS


def test_latencies_of_one_request():
    result = summarize([record(1.0, [1.5, 1.6, 1.9])], duration_s=2.0)
    assert result["median_ttft_ms"] == pytest.approx(500)
    assert result["median_tpot_ms"] == pytest.approx(200)
    assert (result["p50_itl_ms"], result["p99_itl_ms"]) == (pytest.approx(200), pytest.approx(298))
    assert result["mean_e2el_ms"] == pytest.approx(900)
    assert result["request_throughput"] == 0.5
    assert result["output_throughput"] == 1.5
    assert result["total_token_throughput"] == pytest.approx(103 / 2)


def test_failures_count_by_kind_and_in_no_latency():
    gone = record(0.0, [9.0])
    gone.hang_up(9.0)
    result = summarize(
        [record(0.0, [0.1]), failed("http_503"), failed("http_503"), failed("connect"), gone], duration_s=1.0, planned=7
    )
    assert (result["completed"], result["failed"], result["hung_up"], result["not_sent"]) == (1, 3, 1, 2)
    assert result["errors_by_kind"] == {"connect": 1, "http_503": 2}
    assert result["p99_ttft_ms"] == pytest.approx(100)
    assert result["error_examples"]["connect"] == "why"


def test_nothing_at_all_is_all_zero():
    result = summarize([], duration_s=0.0)
    assert result["request_throughput"] == result["p99_ttft_ms"] == result["lateness_ms_max"] == 0
    assert result["request_goodput"] is None and result["slo"] is None


def test_the_generators_own_lateness_is_told():
    assert summarize([record(1.25, [1.5], due_s=1.0)], duration_s=1.0)["lateness_ms_max"] == pytest.approx(250)


def test_goodput_needs_every_limit():
    records = [record(0.0, [0.1, 0.2]), record(0.0, [0.1, 0.9]), record(0.0, [0.8, 0.9])]
    assert summarize(records, duration_s=2.0, goodput=parse_goodput(["ttft:500", "tpot:300"]))["request_goodput"] == 0.5


@pytest.mark.parametrize("pair", ["ttft", "ttft:x", "ttft:-1", "itl:5"])
def test_nonsense_goodput_is_refused(pair):
    with pytest.raises(InvalidArgument, match="goodput"):
        parse_goodput([pair])


def test_slo_grows_with_the_uncached_prompt_and_counts_failures_as_missed():
    slo = Slo(prefill_ms_per_token=1.0, decode_step_ms=100.0, ttft_base_ms=500.0)
    in_time, cached = record(0.0, [0.69, 0.9]), record(0.0, [0.69, 0.9])
    cached.cached_tokens = 90  # its own prefill was 10 ms: 520 ms were allowed
    slow = record(0.0, [0.1, 0.45])
    result = summarize([in_time, cached, slow, failed("timeout")], duration_s=2.0, slo=slo)
    assert result["slo"]["met_share"] == 0.25
    assert result["slo"]["goodput"] == 0.5


def test_a_result_of_vllm_bench_serve_is_a_baseline(tmp_path):
    path = tmp_path / "vllm.json"
    path.write_text('{"request_throughput": 4.0, "mean_ttft_ms": 50.0, "std_itl_ms": 0.0, "backend": "vllm"}')
    ours = {"request_throughput": 6.0, "mean_ttft_ms": 25.0, "std_itl_ms": 1.0}
    assert over_baseline(ours, read_result(path)) == {"request_throughput": 1.5, "mean_ttft_ms": 0.5}


@pytest.mark.parametrize("text", ["[]", '{"a": 1}', "no json"])
def test_a_file_that_is_no_result_is_refused(text, tmp_path):
    (path := tmp_path / "x.json").write_text(text)
    with pytest.raises(InvalidArgument, match="baseline"):
        read_result(path)
