"""Load from one client process: an open loop at a rate or along a trace, or a closed loop of N clients.

The result has the keys of `vllm bench serve`'s and more (bench/summary.py). Warm-up requests are the first ones of
the same arrival process; they are sent alike and not counted. Prompts are random token ids, so the answers mean
nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from tqdm import tqdm

from shoal.bench import traces
from shoal.bench.arrivals import Gamma, arrival_times, parse_arrival
from shoal.bench.driver import Client, Run, drive
from shoal.bench.http_client import HttpClient, HttpTarget, first_model
from shoal.bench.outcome import INTERRUPTED, MEASURED, Outcome
from shoal.bench.record import Record
from shoal.bench.report import plot_load
from shoal.bench.summary import PERCENTILES, Slo, detail, over_baseline, parse_goodput, read_result, summarize
from shoal.bench.workload import (
    FixedLength,
    Length,
    LoadRequest,
    LogNormalLength,
    PromptMaker,
    build_requests,
    parse_class,
    synthetic_rows,
)
from shoal.proto.errors import InvalidArgument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    target_arguments(parser)
    _arrival_arguments(parser)
    _length_arguments(parser)
    _run_arguments(parser)


def target_arguments(parser: argparse.ArgumentParser) -> None:
    where = parser.add_argument_group("whom to ask").add_mutually_exclusive_group(required=True)
    where.add_argument("--url", help="an OpenAI-compatible server, e.g. http://127.0.0.1:8000")
    where.add_argument("--grpc", metavar="HOST:PORT", help="the product's gRPC API")
    parser.add_argument("--model", help="default: the first that the server lists")
    parser.add_argument(
        "--chat",
        action="store_true",
        help="chat completions instead of completions; prompt lengths are then the server's",
    )
    parser.add_argument(
        "--key", action="append", default=[], metavar="[TENANT=]KEY", help="API key, of one tenant where named"
    )
    parser.add_argument("--retry", type=int, default=0, metavar="N", help="obey Retry-After up to N times per request")


def _arrival_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rate", type=float, help="requests per second: an open loop")
    parser.add_argument("--arrival", default="poisson", metavar="poisson|gamma:CV|fixed")
    parser.add_argument("--concurrency", type=int, help="a closed loop of N clients instead of a rate")
    parser.add_argument(
        "--trace", metavar="FILE", help="arrivals and lengths from a trace; --rate then scales its time"
    )
    parser.add_argument("--trace-cut", metavar="START:END", help="seconds of the trace to use")
    parser.add_argument("--time-scale", type=float, default=1.0, help="of the trace; 2 is half the rate")
    parser.add_argument("--requests", type=int, help="how many count (default: 1000, or all of a trace)")
    parser.add_argument("--warmup", type=int, default=0, help="requests before those that count")


def _length_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=32)
    parser.add_argument(
        "--input-sigma", type=float, default=0.0, help="above 0: log-normal lengths with the mean given"
    )
    parser.add_argument("--output-sigma", type=float, default=0.0)
    parser.add_argument("--length-scale", type=float, default=1.0, help="of a trace's prompts and answers")
    parser.add_argument("--max-input-tokens", type=int, default=8192)
    parser.add_argument("--max-output-tokens", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=256, help="token ids are drawn below this")
    parser.add_argument(
        "--class", action="append", default=[], dest="classes", metavar="NAME:SHARE[:TENANT[:PRIORITY]]"
    )


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--timeout", type=float, default=300.0, help="seconds for the whole run; what is unfinished then has failed"
    )
    parser.add_argument("--request-timeout", type=float, default=600.0, help="seconds for one request")
    parser.add_argument(
        "--hangup", type=float, default=0.0, metavar="SHARE", help="of clients that leave at a random token"
    )
    parser.add_argument(
        "--goodput", nargs="+", default=[], metavar="KEY:MS", help="ttft, tpot, e2el limits, as in vllm bench serve"
    )
    parser.add_argument(
        "--slo-prefill-ms-per-token", type=float, help="a lone prompt's prefill; with --slo-step-ms gives `slo`"
    )
    parser.add_argument("--slo-step-ms", type=float, help="a lone request's decode step")
    parser.add_argument("--percentiles", default=",".join(f"{percent:g}" for percent in PERCENTILES))
    parser.add_argument("--detailed", action="store_true", help="add the arrays per request")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    parser.add_argument(
        "--save", type=Path, metavar="FILE.json", help="the result, as `vllm bench serve` saves its own"
    )
    parser.add_argument(
        "--baseline", type=Path, metavar="FILE.json", help="such a file: adds this run's numbers over those in it"
    )


def plan(args: argparse.Namespace) -> list[LoadRequest]:
    """Everything that will be sent, warm-up first."""
    rng = random.Random(args.seed)
    rows = _trace_rows(args, rng) if args.trace else _synthetic_rows(args, rng)
    classes = [parse_class(text) for text in args.classes]
    options: dict[str, Any] = {"classes": classes} if classes else {}
    return build_requests(rows, rng, hang_up_share=args.hangup, **options)


def _synthetic_rows(args: argparse.Namespace, rng: random.Random) -> list[traces.TraceRow]:
    count = args.warmup + (1000 if args.requests is None else args.requests)
    times = arrival_times(parse_arrival(args.arrival), args.rate, count, rng) if args.rate else [0.0] * count
    inputs = _length(args.input_tokens, args.input_sigma, args.max_input_tokens)
    outputs = _length(args.output_tokens, args.output_sigma, args.max_output_tokens)
    return synthetic_rows(times, inputs, outputs, rng)


def _length(mean_tokens: int, sigma: float, cap_tokens: int) -> Length:
    return LogNormalLength(mean_tokens, sigma, cap_tokens) if sigma > 0 else FixedLength(mean_tokens)


def _trace_rows(args: argparse.Namespace, rng: random.Random) -> list[traces.TraceRow]:
    rows = traces.read_trace(traces.find_trace(args.trace), rng)
    if args.trace_cut:
        rows = traces.cut(rows, *_cut_bounds(args.trace_cut))
    rows = traces.scale_time(rows[: None if args.requests is None else args.warmup + args.requests], args.time_scale)
    if not rows:
        raise InvalidArgument("trace-cut", limit="a span with requests in it", given=args.trace_cut)
    if args.rate:
        rows = traces.scale_to_rate(rows, args.rate)
    limits = {"max_input_tokens": args.max_input_tokens, "max_output_tokens": args.max_output_tokens}
    return traces.scale_lengths(rows, args.length_scale, **limits)


def _cut_bounds(text: str) -> tuple[float, float]:
    start, _, end = text.partition(":")
    try:
        return float(start or 0), float(end or "inf")
    except ValueError:
        raise InvalidArgument("trace-cut", limit="START:END in seconds", given=text) from None


def check(args: argparse.Namespace) -> None:
    if args.concurrency is not None and (args.rate or args.concurrency < 1):
        raise InvalidArgument(
            "concurrency", limit="at least 1, and without --rate: a loop is open or closed", given=args.concurrency
        )
    if not (args.rate or args.concurrency or args.trace):
        raise InvalidArgument("rate", limit="given, or --concurrency or --trace in its place", given=args.rate)
    for name in ("input_tokens", "output_tokens", "vocabulary", "timeout", "time_scale", "length_scale"):
        if getattr(args, name) <= 0:
            raise InvalidArgument(name, limit="above 0", given=getattr(args, name))
    if args.warmup < 0 or (args.requests is not None and args.requests < 1):
        raise InvalidArgument("requests", limit="at least 1, --warmup at least 0", given=(args.requests, args.warmup))


def _keys(texts: Sequence[str]) -> dict[str, str]:
    pairs = [text.split("=", 1) if "=" in text else ["default", text] for text in texts]
    return {tenant: key for tenant, key in pairs}


async def client_of(args: argparse.Namespace) -> tuple[AbstractAsyncContextManager[Client], str]:
    prompts, keys = PromptMaker(args.seed, args.vocabulary), _keys(args.key)
    if args.grpc:
        from shoal.bench.grpc_client import GrpcClient, GrpcTarget  # noqa: PLC0415 - grpc only where it is asked for

        grpc_target = GrpcTarget(args.grpc, args.model or "", keys, {}, args.request_timeout, args.retry)
        return GrpcClient(grpc_target, prompts), args.model or ""
    model = args.model or await first_model(args.url, next(iter(keys.values()), None))
    target = HttpTarget(args.url, model, args.chat, keys, {}, args.request_timeout, args.retry)
    return HttpClient(target, prompts), model


async def _run(args: argparse.Namespace, requests: Sequence[LoadRequest]) -> tuple[Run, str]:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    deadline_s = time.perf_counter() + args.timeout
    context, model = await client_of(args)
    with tqdm(total=len(requests), unit="req", file=sys.stderr, mininterval=0.5) as bar:

        def finished(record: Record) -> None:
            bar.update()

        async with context as client:
            left_s = deadline_s - time.perf_counter()
            run = await drive(
                client, requests, timeout_s=left_s, concurrency=args.concurrency, stop=stop, finished=finished
            )
    return run, model


def run(args: argparse.Namespace) -> Outcome:
    check(args)
    baseline = read_result(args.baseline) if args.baseline else {}
    goodput = parse_goodput(args.goodput)
    percentiles = _percentiles(args.percentiles)
    requests = plan(args)
    if len(requests) <= args.warmup:
        raise InvalidArgument("warmup", limit=f"below the number of requests, {len(requests)}", given=args.warmup)
    load, model = asyncio.run(_run(args, requests))
    counted = [record for record in load.records if record.request.index >= args.warmup]
    warm_up_failed = sum(bool(record.error_kind) for record in load.records if record.request.index < args.warmup)
    first_s = min((record.due_s for record in counted), default=load.ended_s)
    last_s = max((record.finished_s for record in counted), default=load.ended_s)
    result = {
        **_setting(args, model, len(requests)),
        **summarize(
            counted,
            duration_s=last_s - first_s,
            percentiles=percentiles,
            goodput=goodput,
            slo=_slo(args),
            planned=len(requests) - args.warmup,
        ),
        "warmup_failed": warm_up_failed,
        "interrupted": load.interrupted,
        "timed_out": load.timed_out,
        **(detail(counted) if args.detailed else {}),
    }
    if args.plot:
        plot_load(counted, result, args.plot)
    if args.save:
        args.save.write_bytes(msgspec.json.encode(result))
    if baseline:
        result["over_baseline"] = over_baseline(result, baseline)
    return Outcome(result, INTERRUPTED if load.interrupted else MEASURED)


def _percentiles(text: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = [-1.0]
    if not all(0 <= value <= 100 for value in values):
        raise InvalidArgument("percentiles", limit="numbers from 0 to 100, with commas between", given=text)
    return values


def _slo(args: argparse.Namespace) -> Slo | None:
    if args.slo_prefill_ms_per_token is None or args.slo_step_ms is None:
        return None
    return Slo(args.slo_prefill_ms_per_token, args.slo_step_ms)


def _setting(args: argparse.Namespace, model: str, planned: int) -> dict[str, Any]:
    arrival = parse_arrival(args.arrival)
    burstiness = 1 / arrival.cv**2 if isinstance(arrival, Gamma) else 1.0  # vllm's word for the Gamma shape
    backend = "shoal-grpc" if args.grpc else "openai-chat" if args.chat else "openai"
    return {
        "date": datetime.now().strftime("%Y%m%d-%H%M%S"),
        "endpoint_type": backend,
        "backend": backend,
        "label": None,
        "model_id": model,
        "tokenizer_id": None,
        "num_prompts": planned - args.warmup,
        "request_rate": args.rate or ("trace" if args.trace else "inf"),
        "burstiness": burstiness,
        "max_concurrency": args.concurrency,
        "arrival": "trace" if args.trace else args.arrival if args.rate else "closed",
        "warmup": args.warmup,
        "seed": args.seed,
    }


__all__ = ["add_arguments", "check", "client_of", "plan", "run", "target_arguments"]
