"""Autoscaling with and without live migration, simulated: instance-hours at equal p99 TTFT.

The production rule (router/scaling.py) at several thresholds over the same arrivals: their rate ebbs and flows, their
lengths have a heavy tail. With migration, instances are relieved and drained by moving requests; without, a draining
instance waits for its own to end. Each setting without migration is compared with the cheapest one with it whose p99
TTFT is no worse.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from statistics import fmean, median
from typing import Any

from shoal.bench.outcome import Outcome
from shoal.bench.policy_grid import HEAVY_TAIL, OVERHEAD_MS, SMALL_CARD
from shoal.bench.sim.build import build, build_planners
from shoal.bench.sim.config import SimConfig, parse_sim_config
from shoal.proto.config import ScalingConfig

SHRINK_OVER_GROW = 3.0  # the upper threshold, as a multiple of the lower


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--grow-below", type=float, nargs="+", default=[250, 500, 1000, 2000, 4000], metavar="TOKENS")
    parser.add_argument("--policy", default="prefix_least_work")
    parser.add_argument("--rate", type=float, default=20.0, help="mean, in requests per second")
    parser.add_argument("--seconds", type=float, default=1800.0, help="of arrivals")
    parser.add_argument("--tide", type=float, default=0.7, help="by what share of the mean the rate rises and falls")
    parser.add_argument("--tide-s", type=float, default=600.0, help="from one high water to the next")
    parser.add_argument("--start-s", type=float, default=20.0, help="until a new instance serves")
    parser.add_argument("--max-instances", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")


def run(args: argparse.Namespace) -> Outcome:
    cells = [(below, migrate) for below in args.grow_below for migrate in (False, True)]
    runs = [(cell, config_of(args, *cell, seed)) for cell in cells for seed in range(args.seeds)]
    with ProcessPoolExecutor(args.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        measured = list(pool.map(measure, [config for _, config in runs]))
    rows = []
    for cell in cells:
        mine = [values for (of, _), values in zip(runs, measured, strict=True) if of == cell]
        means = {name: fmean([values[name] for values in mine]) for name in mine[0]}
        rows.append({"grow_below_tokens": cell[0], "migration": cell[1], **means})
    saved = savings(rows)
    return Outcome({"saved_share": median(saved) if saved else math.nan, "saved_shares": saved, "rows": rows})


def config_of(args: argparse.Namespace, grow_below: float, migrate: bool, seed: int) -> SimConfig:
    scaling = ScalingConfig(
        max_instances=args.max_instances,
        grow_below_tokens=grow_below,
        shrink_above_tokens=SHRINK_OVER_GROW * grow_below,
        patience_s=5.0,
        cooldown_s=10.0,
    )
    size = {"requests": math.ceil(args.rate * args.seconds), "rate_rps": args.rate}
    tide = {"tide": args.tide, "tide_s": args.tide_s}
    return parse_sim_config(
        {
            "workload": {"kind": "synthetic", **size, **HEAVY_TAIL, **tide},
            "seed": seed,
            "policy": args.policy,
            "overhead_ms": OVERHEAD_MS,
            "predict_lengths": True,
            "migration": {} if migrate else None,
            "scaling": scaling.model_dump(),
            "start_s": args.start_s,
            **SMALL_CARD,
        }
    )


def measure(config: SimConfig) -> dict[str, float]:
    simulation, planners = build(config), build_planners(config)
    results = simulation.run(planners)
    fleet = {name: value for planner in planners for name, value in planner.summary().items()}
    ttft_s = sorted(results.ttft_s)
    return {
        "ttft_ms_p99": 1e3 * ttft_s[int(0.99 * (len(ttft_s) - 1))],
        "instance_hours": fleet["instance_hours"],
        "most_instances": fleet["most_instances"],
        "preemptions": float(results.column("preemptions").sum()),
        "moves": float(results.column("moves").sum()),
    }


def savings(rows: Sequence[dict[str, Any]]) -> list[float]:
    """Per setting without migration, where one with it is as good: by what share fewer instance-hours the cheapest
    such one takes."""
    with_moves = [row for row in rows if row["migration"]]
    saved = []
    for row in rows:
        as_good = [other for other in with_moves if other["ttft_ms_p99"] <= row["ttft_ms_p99"]]
        if not row["migration"] and as_good:
            saved.append(1 - min(other["instance_hours"] for other in as_good) / row["instance_hours"])
    return saved


__all__ = ["add_arguments", "run", "savings"]
