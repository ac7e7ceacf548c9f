"""How well the simulator tells what a real engine did: the same requests at the same times, latencies compared.

One number is calibrated, on the first requests: the constant per step that a deployment adds to its kernels. The
others are judged. An error is |simulated / real - 1| of the mean or the 99th percentile; signed ones stand beside them.
Default: vLLM 0.19 with Llama-3.1-8B on an RTX PRO 6000, from the folder of public data.
"""

from __future__ import annotations

import argparse
import gzip
import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from shoal.bench.outcome import Outcome
from shoal.bench.sim.fit import FITS, read_table
from shoal.bench.sim.names import names_of
from shoal.bench.sim.request import Listed, SimRequest
from shoal.bench.sim.simulation import Simulation
from shoal.bench.traces import TraceRow, read_trace
from shoal.instance.step_model import StepModel
from shoal.instance.step_time import StepTime, WithOverhead
from shoal.proto.config import AdmissionConfig
from shoal.proto.errors import InvalidArgument, NotFound
from shoal.router.contract import InstanceInfo, Role
from shoal.router.profile import PROFILES, build_policy

TRUTH = "profiles/vllm0.19_real_run_rtxpro6000_llama31-8b_requests.jsonl.gz"
TRACE = "traces/llmservingsim_sharegpt_300_sps10.jsonl.gz"
PROFILE = "profiles/aic0.12_vllm_step_times.csv.gz"
PROFILE_ROWS = "gpu=rtx_pro_6000_server"
CALIBRATION_RUNS = 12


class Seen(msgspec.Struct, frozen=True):
    """One request of the real run: seconds on the engine's clock."""

    input_toks: int
    output_toks: int
    queued_ts: float
    first_token_ts: float
    last_token_ts: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, default=Path("../shared"), help="folder with profiles/ and traces/")
    parser.add_argument("--truth", type=Path, help=f"JSONL, one request per line (default: DATA/{TRUTH})")
    parser.add_argument("--trace", type=Path, help=f"the same requests' prefix blocks (default: DATA/{TRACE})")
    parser.add_argument("--profile", type=Path, help=f"table of step times (default: DATA/{PROFILE})")
    parser.add_argument(
        "--profile-rows", metavar="COLUMN=VALUE", action="append", help=f"of the table (default: {PROFILE_ROWS})"
    )
    parser.add_argument("--form", choices=FITS, default="table", help="of the step-time model fitted to it")
    parser.add_argument("--calibrate", type=int, default=60, help="requests that the overhead is calibrated on")
    parser.add_argument("--instances", type=int, default=1, help="engines of the real run")
    parser.add_argument("--policy", choices=PROFILES, default="prefix_least_work", help="that placed it there")
    parser.add_argument("--block-size", type=int, default=16)
    parser.add_argument("--total-blocks", type=int, default=32768)
    parser.add_argument("--max-num-batched-tokens", type=int, default=2048)
    parser.add_argument("--max-num-seqs", type=int, default=128)
    parser.add_argument("--max-model-len", type=int, default=32768)
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> Outcome:
    truth = read_truth(_file(args.truth, args.data / TRUTH))
    rows = _prefixes(args, truth)
    where = dict(pair.split("=", 1) for pair in args.profile_rows or ([] if args.profile else [PROFILE_ROWS]))
    fit = FITS[args.form](read_table(_file(args.profile, args.data / PROFILE), where))

    def simulated(overhead_ms: float) -> Latencies:
        return simulate(args, truth, rows, WithOverhead(fit.step_time, overhead_ms))

    real = measured(truth)
    first, rest = slice(0, args.calibrate), slice(args.calibrate, None)
    overhead_ms = calibrate(lambda ms: float(np.nanmean(simulated(ms)[1][first])), float(np.nanmean(real[1][first])))
    return Outcome(
        {
            **compare(simulated(overhead_ms), real, rest),
            "overhead_ms": overhead_ms,
            "profile_mape": fit.mape,
            "requests_calibrated": args.calibrate,
            "requests_judged": len(truth) - args.calibrate,
        }
    )


Latencies = tuple[Any, Any]
"""TTFT and TPOT, in seconds, one per request in the order of the truth."""


def _file(given: Path | None, default: Path) -> Path:
    path = given or default
    if not path.is_file():
        raise NotFound(f"no file {path}: name it, or the folder of the data with --data")
    return path


def read_truth(path: Path) -> list[Seen]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as lines:
        try:
            seen = [msgspec.json.decode(line, type=Seen) for line in lines if line.strip()]
        except msgspec.MsgspecError as exc:
            raise InvalidArgument("truth", limit=", ".join(Seen.__struct_fields__), given=str(exc)) from None
    if not all(before.queued_ts <= after.queued_ts for before, after in pairwise(seen)):
        raise InvalidArgument("truth", limit="requests by queued_ts", given="others")
    return seen


def _prefixes(args: argparse.Namespace, truth: Sequence[Seen]) -> list[TraceRow]:
    """Another run than the default one may have no trace: then nothing is shared."""
    if args.trace is None and args.truth is not None:
        return [TraceRow(0.0, seen.input_toks, seen.output_toks) for seen in truth]
    rows = read_trace(_file(args.trace, args.data / TRACE), random.Random(args.seed))
    lengths = [(row.input_tokens, row.output_tokens) for row in rows]
    if lengths != [(seen.input_toks, seen.output_toks) for seen in truth]:
        raise InvalidArgument("trace", limit="the same requests as truth", given="other lengths")
    return rows


def simulate(
    args: argparse.Namespace, truth: Sequence[Seen], rows: Sequence[TraceRow], step_time: StepTime
) -> Latencies:
    requests = [
        SimRequest(
            f"{number:09d}",
            seen.queued_ts - truth[0].queued_ts,
            seen.input_toks,
            seen.output_toks,
            args.max_model_len,
            names_of(row.block_ids, row.block_tokens, args.block_size, seen.input_toks + seen.output_toks),
        )
        for number, (seen, row) in enumerate(zip(truth, rows, strict=True))
    ]
    simulation = Simulation(
        Listed(requests),
        policy=build_policy(args.policy),
        admission=AdmissionConfig(max_requests=1 << 30, max_queued_tokens=1 << 50, default_deadline_s=1e9),
        block_size=args.block_size,
        seed=args.seed,
    )
    sizes = {"block_size": args.block_size, "total_blocks": args.total_blocks, "max_model_len": args.max_model_len}
    batch = {"max_num_batched_tokens": args.max_num_batched_tokens, "max_num_seqs": args.max_num_seqs}
    for number in range(args.instances):
        info = InstanceInfo(f"i{number}", Role.MIXED, **sizes, **batch)
        simulation.join(info, StepModel(**sizes, **batch), step_time)
    results = simulation.run()
    if len(results.ids) != len(truth):
        raise InvalidArgument("truth", limit=f"requests under {args.max_model_len} tokens", given="longer ones")
    order = np.argsort(results.ids)
    return results.ttft_s[order], results.tpot_s[order]


def measured(truth: Sequence[Seen]) -> Latencies:
    ttft_s = np.array([seen.first_token_ts - seen.queued_ts for seen in truth])
    later = [(seen.last_token_ts - seen.first_token_ts, seen.output_toks - 1) for seen in truth]
    return ttft_s, np.array([span_s / tokens if tokens else np.nan for span_s, tokens in later])


def calibrate(mean_tpot_s: Callable[[float], float], wanted_s: float) -> float:
    """The overhead in ms with which the mean TPOT is as wanted: by secants, as one hardly bends. Never below 0."""
    (low_ms, low_s), high_ms = (0.0, mean_tpot_s(0.0)), 4.0
    for _ in range(CALIBRATION_RUNS):
        high_s = mean_tpot_s(high_ms)
        if abs(high_s - wanted_s) < 1e-4 * wanted_s or high_s == low_s:
            break
        next_ms = max(0.0, high_ms + (wanted_s - high_s) * (high_ms - low_ms) / (high_s - low_s))
        (low_ms, low_s), high_ms = (high_ms, high_s), next_ms
    return high_ms


def compare(simulated: Latencies, real: Latencies, judged: slice) -> dict[str, float]:
    errors = {}
    for name, ours, theirs in zip(("ttft", "tpot"), simulated, real, strict=True):
        pair = ours[judged][~np.isnan(ours[judged])], theirs[judged][~np.isnan(theirs[judged])]
        errors[f"{name}_mean"] = float(pair[0].mean() / pair[1].mean() - 1)
        errors[f"{name}_p99"] = float(np.percentile(pair[0], 99) / np.percentile(pair[1], 99) - 1)
    absolute = {f"{name}_err": abs(error) for name, error in errors.items()}
    return {**absolute, **{f"{name}_signed": error for name, error in errors.items()}}


__all__ = ["Seen", "add_arguments", "calibrate", "compare", "measured", "read_truth", "run", "simulate"]
