"""Errors by hand, and a real run made by the simulator itself, which it must then know how to tell."""

import argparse
import os
from pathlib import Path

import msgspec
import numpy as np
import pytest

from shoal.bench import fidelity
from shoal.bench.fidelity import Seen, calibrate, compare
from shoal.bench.traces import TraceRow
from shoal.instance.step_time import LinearStepTime, StepWork
from shoal.proto.errors import InvalidArgument

KERNELS = LinearStepTime(8, 0.03, 2, 0.02, 0.1)
DATA = Path(os.environ.get("SHOAL_DATA", "../shared"))


def arguments(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    fidelity.add_arguments(parser)
    return parser.parse_args(given)


def test_errors_are_shares_of_the_real_value_over_the_judged_requests_only():
    real = np.array([9.0, 1.0, 3.0]), np.array([9.0, 0.1, np.nan])
    simulated = np.array([5.0, 2.0, 3.0]), np.array([5.0, 0.05, np.nan])
    errors = compare(simulated, real, slice(1, None))
    assert errors["ttft_mean_err"] == errors["ttft_mean_signed"] == pytest.approx(0.25)
    assert (errors["tpot_mean_err"], errors["tpot_mean_signed"]) == pytest.approx((0.5, -0.5))


def test_the_overhead_that_gives_the_wanted_time_is_found():
    assert calibrate(lambda overhead_ms: 0.010 + 2e-3 * overhead_ms, 0.017) == pytest.approx(3.5, abs=0.01)
    assert calibrate(lambda overhead_ms: 0.010 + 1e-4 * overhead_ms**2, 0.020) == pytest.approx(10, abs=0.02)
    assert calibrate(lambda overhead_ms: 0.010 + 2e-3 * overhead_ms, 0.005) == 0.0


def test_a_run_made_with_another_overhead_is_told_without_error(tmp_path):
    """The table has the kernels only; 4.25 ms per step on top of them are in the run."""
    args = arguments("--total-blocks", "4096")
    asked = [Seen(100 + 37 * i % 900, 20 + 11 * i % 50, i * 0.03, 0.0, 0.0) for i in range(90)]
    rows = [TraceRow(0.0, seen.input_toks, seen.output_toks) for seen in asked]
    with_overhead = LinearStepTime(8 + 4.25, 0.03, 2, 0.02, 0.1)
    ttft_s, tpot_s = fidelity.simulate(args, asked, rows, with_overhead)
    (tmp_path / "truth.jsonl").write_bytes(b"\n".join(_line(*run) for run in zip(asked, ttft_s, tpot_s, strict=True)))
    lines = ["prefill_tokens,prefill_ctx,decode_seqs,decode_ctx,ms"]
    for p, ctx, d, each in [
        (0, 0, 1, 100),
        (0, 0, 9, 900),
        (500, 0, 0, 0),
        (900, 900, 0, 0),
        (90, 9, 9, 99),
        (1, 0, 0, 0),
    ]:
        work = StepWork(p, p * ctx + p * p / 2, d, d * each)
        lines.append(f"{p},{ctx},{d},{each},{KERNELS.step_ms(work)!r}")
    (tmp_path / "table.csv").write_text("\n".join(lines))

    files = ["--truth", str(tmp_path / "truth.jsonl"), "--profile", str(tmp_path / "table.csv"), "--form", "linear"]
    result = fidelity.run(arguments(*files)).result
    assert result["overhead_ms"] == pytest.approx(4.25, abs=0.02)
    assert max(result[f"{name}_err"] for name in ("ttft_mean", "ttft_p99", "tpot_mean", "tpot_p99")) < 0.005


def _line(seen: Seen, ttft_s: float, tpot_s: float) -> bytes:
    first_s = float(seen.queued_ts + ttft_s)
    last_s = float(first_s + tpot_s * (seen.output_toks - 1))
    return msgspec.json.encode(msgspec.structs.replace(seen, first_token_ts=first_s, last_token_ts=last_s))


def test_a_trace_of_other_requests_is_refused(tmp_path):
    (tmp_path / "truth.jsonl").write_bytes(msgspec.json.encode(Seen(10, 5, 0.0, 1.0, 2.0)))
    (tmp_path / "trace.jsonl").write_text('{"timestamp": 0, "input_length": 11, "output_length": 5, "hash_ids": []}')
    with pytest.raises(InvalidArgument, match="other lengths"):
        fidelity.run(arguments("--truth", str(tmp_path / "truth.jsonl"), "--trace", str(tmp_path / "trace.jsonl")))


@pytest.mark.skipif(not (DATA / fidelity.TRUTH).is_file(), reason="no public data beside the checkout or in SHOAL_DATA")
def test_the_public_run_is_told_within_five_percent():
    result = fidelity.run(arguments("--data", str(DATA))).result
    assert max(result[f"{name}_err"] for name in ("ttft_mean", "ttft_p99", "tpot_mean", "tpot_p99")) <= 0.05
