"""How well answer lengths are foretold: each request of a mix of traces is predicted, then learned, in order of time.

The first fifth only teaches. Beside the model stand two that know less: how long answers were so far, of all and of the
same application. `log_loss` is in nats, `calibration_error` the mean distance between what was said and what came true.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from shoal.bench.outcome import Outcome
from shoal.bench.stats import mean, percentile
from shoal.bench.traces import read_trace
from shoal.proto.errors import InvalidArgument, NotFound
from shoal.router.contract import RouteRequest, Traits
from shoal.router.length import LengthModel, Reliability, edges_by_time

MIX = {"code": "azure_llm_2023_code_0-35min.csv.gz", "chat": "azure_llm_2023_conv_0-35min.csv.gz"}
TAUGHT_SHARE = 0.2
LIMIT_TOKENS = 1 << 15


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, default=Path("../shared"), help="folder with traces/")
    parser.add_argument(
        "--trace", action="append", metavar="APPLICATION=FILE", help=f"one or more (default: DATA/traces/ {MIX})"
    )
    parser.add_argument("--step-ms", type=float, default=20.0, help="of a decode: bucket edges follow completion time")
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> Outcome:
    given = args.trace or [f"{application}={args.data / 'traces' / name}" for application, name in MIX.items()]
    asked = _read([pair.partition("=") for pair in given], Random(args.seed))
    return Outcome(evaluate(asked, LengthModel(edges_by_time(args.step_ms / 1e3))))


def _read(traces: list[tuple[str, str, str]], rng: Random) -> list[tuple[RouteRequest, int]]:
    """Requests with the lengths of their answers, by time."""
    rows = []
    for application, sign, path in traces:
        if not sign:
            raise InvalidArgument("trace", limit="APPLICATION=FILE", given=application)
        if not Path(path).is_file():
            raise NotFound(f"no file {path}: name it with --trace, or the folder of the data with --data")
        rows += [(row, Traits(application)) for row in read_trace(Path(path), rng)]
    rows.sort(key=lambda pair: pair[0].at_s)
    return [(RouteRequest("r", row.input_tokens, LIMIT_TOKENS, traits=of), row.output_tokens) for row, of in rows]


def evaluate(asked: list[tuple[RouteRequest, int]], model: LengthModel) -> dict[str, Any]:
    reliability, judged_from = Reliability(), int(len(asked) * TAUGHT_SHARE)
    counts = defaultdict(lambda: np.ones(len(model.edges)))
    losses: dict[str, list[float]] = defaultdict(list)
    right: dict[str, list[float]] = defaultdict(list)
    predict_us, learn_us = [], []
    for number, (request, tokens) in enumerate(asked):
        start = time.perf_counter()
        chances = model.predict(request)
        predicted = time.perf_counter()
        model.learn(request, tokens)
        learn_us.append((time.perf_counter() - predicted) * 1e6)
        predict_us.append((predicted - start) * 1e6)
        bucket, alike = model.bucket(tokens), (counts["all"], counts[request.traits.application])
        if number >= judged_from:
            reliability.add(chances, bucket)
            said = {"model": chances, "of_all": alike[0] / alike[0].sum(), "of_application": alike[1] / alike[1].sum()}
            for name, row in said.items():
                losses[name].append(float(-np.log(max(row[bucket], 1e-9))))
                right[name].append(float(row.argmax() == bucket))
        for seen in alike:
            seen[bucket] += 1
    return {
        "requests": len(asked),
        "bucket_edges_tokens": model.edges[:-1].tolist(),
        "log_loss": {name: mean(values) for name, values in losses.items()},
        "accuracy": {name: mean(values) for name, values in right.items()},
        "calibration_error": reliability.error,
        "predict_us_p50": percentile(predict_us, 50),
        "learn_us_p50": percentile(learn_us, 50),
    }


__all__ = ["add_arguments", "evaluate", "run"]
