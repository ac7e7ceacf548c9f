"""Every policy over every workload on the simulator: load, fleet size, frontends, seeds; then a ranking.

Rates are shares of the capacity of each fleet under `least_work` (bench/policy_grid.py). Each number comes with its
95 % interval over the seeds. Policies are ranked by the share of requests that meet the SLO (goodput over the time of
the arrivals, which are the same for all) relative to the best of each condition, on average; beside it stands the p99
TTFT relative to the best one's (geometric mean). Beside the ranking stands the contest: ours against the best rival of
each workload (bench/contest.py), on the part of each trace's time that training did not see. --quick is a small grid
for a look; the whole grid takes hours: choose parts of it.
"""

from __future__ import annotations

import argparse
import itertools
import math
import multiprocessing
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, TypeVar

from tqdm import tqdm

from shoal.bench.contest import contest
from shoal.bench.outcome import Outcome
from shoal.bench.policy_grid import WORKLOADS, Condition, Part, Run, Setting, capacity_rps, measure
from shoal.proto.errors import InvalidArgument, NotFound
from shoal.router.profile import LEARNED, PROFILES

Given = TypeVar("Given")
Made = TypeVar("Made")

NAMES = (*PROFILES, LEARNED)
FULL: dict[str, Any] = {
    "utilisations": (0.6, 0.9, 1.1),
    "instances": (2, 4, 16, 64),
    "frontends": (1, 2, 4, 8),
    "seeds": 5,
    "seconds": 120.0,
}
QUICK: dict[str, Any] = {"utilisations": (0.9,), "instances": (4,), "frontends": (1,), "seeds": 2, "seconds": 30.0}
MIGRATION = {"off": (False,), "on": (True,), "both": (False, True)}
TABLES = {"placement_only": False, "with_migration": True}
STUDENT_T = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}  # 97.5 %, by freedom


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--traces", type=Path, default=Path("../shared/traces"), help="folder")
    parser.add_argument("--quick", action="store_true", help="a small grid: minutes on two cores")
    parser.add_argument("--policies", nargs="+", choices=NAMES, default=list(NAMES), metavar="NAME")
    parser.add_argument("--ours", choices=NAMES, default=LEARNED, help="whom to set against the best rival")
    parser.add_argument("--part", choices=[part.name.lower() for part in Part], default="score", help="of each trace")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="NAME")
    parser.add_argument("--utilisations", nargs="+", type=float, help="shares of the capacity")
    parser.add_argument("--instances", nargs="+", type=int)
    parser.add_argument("--frontends", nargs="+", type=int)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--seconds", type=float, help="of arrivals, in each run")
    parser.add_argument("--stale-ms", type=float, default=50.0, help="how old reports are when they arrive")
    parser.add_argument("--migration", choices=MIGRATION, default="both", help="are requests moved once placed?")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the ranking there, as Markdown")


def run(args: argparse.Namespace) -> Outcome:
    if not args.traces.is_dir():
        raise NotFound(f"no folder {args.traces}: name it with --traces")
    grid = {name: getattr(args, name) or default for name, default in (QUICK if args.quick else FULL).items()}
    setting = Setting(args.traces, grid["seconds"], args.stale_ms / 1e3, Part[args.part.upper()])
    fleets = list(itertools.product(args.workloads, grid["instances"]))
    with ProcessPoolExecutor(args.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        capacity = _spread(pool, "capacities", _capacity, [(setting, *fleet) for fleet in fleets])
        capacities = {(workload, instances): found for (_, workload, instances), found in capacity}
        runs = [run for migrate in MIGRATION[args.migration] for run in _runs(args.policies, grid, capacities, migrate)]
        measured = _spread(pool, "runs", _measure, [(setting, run) for run in runs])
    tables = {
        name: summarize_cells((run, values) for (_, run), values in measured if run.migrate is migrate)
        for name, migrate in TABLES.items()
        if migrate in MIGRATION[args.migration]
    }
    rankings = {name: rank(cells) for name, cells in tables.items()}
    against = {name: contest(cells, args.ours) for name, cells in tables.items()}
    if args.report:
        count = len({run.condition for run in runs})
        args.report.write_text("\n".join(as_markdown(name, rows, count) for name, rows in rankings.items()))
    return Outcome(
        {
            "capacity_rps": {f"{workload}x{instances}": found for (workload, instances), found in capacities.items()},
            "runs": len(runs),
            **{name: count for name, count in next(iter(against.values())).items() if name != "rows"},
            **{
                name: {"ranking": rankings[name], "contest": against[name]["rows"], "cells": cells}
                for name, cells in tables.items()
            },
            "gain_of_moving": gain_of_moving(*tables.values()) if len(tables) == len(TABLES) else [],
            "cost_of_frontends": {name: cost_of_frontends(cells) for name, cells in tables.items()},
        }
    )


def _runs(
    policies: Sequence[str], grid: dict[str, Any], capacities: dict[tuple[str, int], float], migrate: bool
) -> Iterable[Run]:
    axes = itertools.product(
        capacities.items(), grid["utilisations"], grid["frontends"], policies, range(grid["seeds"])
    )
    for ((workload, instances), capacity), utilisation, frontends, policy, seed in axes:
        if capacity <= 0:
            raise InvalidArgument("traces", limit="a workload that some rate of it can be served", given=workload)
        yield Run(Condition(workload, instances, utilisation, frontends), policy, seed, utilisation * capacity, migrate)


def _spread(
    pool: ProcessPoolExecutor, name: str, work: Callable[[Given], Made], given: Sequence[Given]
) -> list[tuple[Given, Made]]:
    """All done in other processes, in the order given."""
    futures = {pool.submit(work, each): number for number, each in enumerate(given)}
    made: dict[int, Made] = {}
    for future in tqdm(as_completed(futures), total=len(futures), desc=name, file=sys.stderr, disable=None):
        made[futures[future]] = future.result()
    return [(each, made[number]) for number, each in enumerate(given)]


def _capacity(given: tuple[Setting, str, int]) -> float:
    return capacity_rps(*given)


def _measure(given: tuple[Setting, Run]) -> dict[str, float]:
    return measure(*given)


def summarize_cells(measured: Iterable[tuple[Run, dict[str, float]]]) -> list[dict[str, Any]]:
    """One per condition and policy: each metric's mean over the seeds with its 95 % interval."""
    by_cell: dict[tuple[Condition, str], list[dict[str, float]]] = defaultdict(list)
    for run, values in measured:
        by_cell[run.condition, run.policy].append(values)
    return [
        {"condition": condition._asdict(), "policy": policy}
        | {name: interval([values[name] for values in seeds]) for name in seeds[0]}
        for (condition, policy), seeds in by_cell.items()
    ]


def interval(values: Sequence[float]) -> dict[str, float]:
    """Student's, over few independent runs; of one run there is none."""
    mean = fmean(values)
    if len(values) < 2:
        return {"mean": mean}
    half = STUDENT_T.get(len(values) - 1, 1.96) * stdev(values) / math.sqrt(len(values))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def rank(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The best first."""
    conditions: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for cell in cells:
        conditions[tuple(cell["condition"].values())].append(cell)
    goodput, ttft = defaultdict(list), defaultdict(list)
    for rivals in conditions.values():
        best_share = max(cell["slo_met_share"]["mean"] for cell in rivals)
        best_ttft = min(cell["ttft_ms_p99"]["mean"] for cell in rivals)
        for cell in rivals:
            goodput[cell["policy"]].append(cell["slo_met_share"]["mean"] / max(best_share, 1e-9))
            ttft[cell["policy"]].append(math.log(max(cell["ttft_ms_p99"]["mean"], 1e-9) / max(best_ttft, 1e-9)))
    rows = [
        {
            "policy": policy,
            "relative_goodput": fmean(goodput[policy]),
            "worst_relative_goodput": min(goodput[policy]),
            "relative_ttft_p99": math.exp(fmean(ttft[policy])),
        }
        for policy in goodput
    ]
    return sorted(rows, key=lambda row: -row["relative_goodput"])


def gain_of_moving(placed: Sequence[dict[str, Any]], moved: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per condition and policy: p99 TTFT without moves over that with them, of the policy itself and of the best
    other one without."""
    without = {(*cell["condition"].values(), cell["policy"]): cell["ttft_ms_p99"]["mean"] for cell in placed}
    rows = []
    for cell in moved:
        condition, ours_ms = tuple(cell["condition"].values()), max(cell["ttft_ms_p99"]["mean"], 1e-9)
        here = {policy: ms for (*where, policy), ms in without.items() if (*where,) == condition}
        others_ms = [ms for policy, ms in here.items() if policy != cell["policy"]]
        rows.append(
            {
                "condition": cell["condition"],
                "policy": cell["policy"],
                "over_itself": here[cell["policy"]] / ours_ms,
                "over_best_other": min(others_ms, default=math.nan) / ours_ms,
            }
        )
    return rows


def cost_of_frontends(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per condition and policy: p99 TTFT with several frontends over that with one."""
    ttft_ms = {(Condition(**cell["condition"]), cell["policy"]): cell["ttft_ms_p99"]["mean"] for cell in cells}
    return [
        {"condition": condition._asdict(), "policy": policy, "over_one": ms / max(alone_ms, 1e-9)}
        for (condition, policy), ms in ttft_ms.items()
        if condition.frontends > 1 and (alone_ms := ttft_ms.get((condition._replace(frontends=1), policy)))
    ]


def as_markdown(table: str, ranking: Sequence[dict[str, Any]], conditions: int) -> str:
    head = (
        f"Policies by goodput relative to the best one of each of {conditions} conditions: {table}.\n\n"
        "| policy | goodput | goodput, worst condition | p99 TTFT |\n|---|---|---|---|\n"
    )
    rows = (
        f"| `{r['policy']}` | {r['relative_goodput']:.3f} | {r['worst_relative_goodput']:.3f} | "
        f"{r['relative_ttft_p99']:.2f} x |\n"
        for r in ranking
    )
    return head + "".join(rows)


__all__ = ["add_arguments", "as_markdown", "interval", "rank", "run", "summarize_cells"]
