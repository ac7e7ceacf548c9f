"""The conditions under which policies are compared, and one run of one policy under one of them, on the simulator.

A condition is a workload, a number of instances and frontends, and a rate as a share of the capacity of that fleet: the
highest rate at which the policy `least_work` keeps 95 % of the requests within the SLO, found by bisection. A seed is
another window of a trace, or other draws. Everything here is plain values, so that runs may go to other processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from shoal.bench.sim.build import build, build_planners, step_times
from shoal.bench.sim.config import SimConfig, parse_sim_config
from shoal.bench.sim.results import Slo, summarize
from shoal.bench.sim.sampler import Sampler
from shoal.router.place import Policy

JUDGE, KEPT_SHARE = "least_work", 0.95
OVERHEAD_MS = 3.0
LARGE_CARD = {"step_time": "llama-3.1-8b/h100/tp1", "block_size": 64, "total_blocks": 7_000}
SMALL_CARD = {"step_time": "llama-3.1-8b/rtx-4090/tp1/layers", "block_size": 16, "total_blocks": 2_600}  # 24 GB
SEED_APART_S = 150.0  # between the windows of two seeds
SCORE_SEEDS = 100_000  # apart from those of training
LEAST_WINDOW_S = 240.0  # twice the longest time without a request: a short run of bursts is all or nothing
WINDOW_S = 1_300.0  # of a trace, at most
HEAVY_TAIL = {
    "arrival": "gamma:2",
    "input_tokens": 1_000,
    "input_sigma": 1.4,
    "output_tokens": 400,
    "output_sigma": 1.4,
    "max_input_tokens": 16_000,
    "max_output_tokens": 8_000,
}
CALLS_PER_SESSION = 8.4  # of the generated agents: 6 turns, a tenth of which fan out into 4


class TraceFile(NamedTuple):
    """`rate_rps`: as recorded."""

    name: str
    rate_rps: float
    span_s: float = WINDOW_S


class ServegenFiles(NamedTuple):
    name: str
    span_s: float = 12 * 3600.0


class Generated(NamedTuple):
    """Sessions of agents."""


class HeavyTailed(NamedTuple):
    """Drawn lengths with a heavy tail, in bursts, on a card whose memory holds some twenty of the mean."""


Source = TraceFile | ServegenFiles | Generated | HeavyTailed

WORKLOADS: dict[str, Source] = {
    "azure-code": TraceFile("azure_llm_2023_code_0-35min.csv.gz", 3.18, 2100.0),
    "azure-conversation": TraceFile("azure_llm_2023_conv_0-35min.csv.gz", 5.87, 2100.0),
    "mooncake-conversation": TraceFile("mooncake_fast25_conversation_0-40min.jsonl.gz", 3.28, 2400.0),
    "servegen-m-large": ServegenFiles("servegen_m-large_day1_0-12h_top20"),
    "servegen-deepseek-r1": ServegenFiles("servegen_deepseek-r1_day0_0-12h_top15"),
    "agents": Generated(),
    "heavy-tailed": HeavyTailed(),
}


class Condition(NamedTuple):
    workload: str
    instances: int
    utilisation: float
    frontends: int


class Run(NamedTuple):
    """One simulation. `migrate`: requests move while they run or wait."""

    condition: Condition
    policy: str
    seed: int
    rate_rps: float
    migrate: bool = False


class Part(Enum):
    """Of a trace's time: what weights are trained on, and the rest. Generated and drawn requests have seeds of their
    own in each."""

    ALL = (0.0, 1.0)
    TRAIN = (0.0, 0.6)
    SCORE = (0.6, 1.0)


class Setting(NamedTuple):
    """What all runs share. `traces`: the folder; `arrivals_s`: how long requests come, at least; the run ends with the
    last of them."""

    traces: Path
    arrivals_s: float
    stale_s: float
    part: Part = Part.ALL


def measure(setting: Setting, run: Run) -> dict[str, float]:
    return summary_of(config_of(setting, run))


def summary_of(config: SimConfig, policy: Policy | None = None) -> dict[str, float]:
    """`policy`: instead of the one that the configuration names."""
    simulation, sampler = build(config, policy), Sampler()
    results = simulation.run([sampler, *build_planners(config)])
    summary = summarize(results, Slo(step_times(config)))
    return {name: float(summary[name]) for name in METRICS if name in summary} | {
        "max_over_mean": sampler.max_over_mean()
    }


METRICS = (
    "goodput",
    "slo_met_share",
    "ttft_ms_p50",
    "ttft_ms_p99",
    "tpot_ms_p50",
    "tpot_ms_p99",
    "e2e_ms_mean",
    "hit_rate",
    "preemptions",
    "moves",
    "max_over_mean_requests",
)


def capacity_rps(setting: Setting, workload: str, instances: int, rounds: int = 5) -> float:
    """Doubles or halves until the answer lies between, then halves the distance between the logarithms."""

    def kept(rate_rps: float) -> bool:
        run = Run(Condition(workload, instances, 1.0, 1), JUDGE, 0, rate_rps)
        return measure(setting, run)["slo_met_share"] >= KEPT_SHARE

    return bisect_rate(kept, 4.0 * instances, rounds)


def bisect_rate(kept: Callable[[float], bool], guess_rps: float, rounds: int) -> float:
    """The highest rate that is kept, to within a factor of 2 ** (1 / 2 ** rounds). 0: none within 2 ** 10 of the
    guess."""
    low = high = guess_rps
    if kept(guess_rps):
        while kept(high := low * 2) and high < guess_rps * 1024:
            low = high
    else:
        while not kept(low := high / 2):
            high = low
            if low < guess_rps / 1024:
                return 0.0
    for _ in range(rounds):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if kept(middle) else (low, middle)
    return low


def config_of(setting: Setting, run: Run) -> SimConfig:
    condition = run.condition
    tree = {
        "workload": workload_of(setting, WORKLOADS[condition.workload], run),
        "seed": run.seed + SCORE_SEEDS * (setting.part is Part.SCORE),
        "instances": condition.instances,
        "frontends": condition.frontends,
        "policy": run.policy,
        "overhead_ms": OVERHEAD_MS,
        "predict_lengths": True,
        "report_delay_s": setting.stale_s,
        "migration": {} if run.migrate else None,
        **(SMALL_CARD if condition.workload == "heavy-tailed" else LARGE_CARD),
    }
    return parse_sim_config(tree)


def workload_of(setting: Setting, source: Source, run: Run) -> dict[str, Any]:
    rate_rps, requests = run.rate_rps, run.rate_rps * setting.arrivals_s
    match source:
        case TraceFile(name, recorded_rps, span_s):
            room_s = WINDOW_S if setting.part is Part.ALL else (_share(setting.part) * span_s) / 2
            copies = math.ceil(requests / (recorded_rps * room_s))
            length_s = min(max(requests / copies / recorded_rps, LEAST_WINDOW_S), room_s)
            start_s = _start_s(setting.part, span_s, length_s, run.seed)
            window = {"start_s": start_s, "end_s": start_s + length_s, "copies": copies}
            return {"kind": "trace", "file": str(setting.traces / name), "rate_rps": rate_rps, **window}
        case ServegenFiles(name, span_s):
            files = {part: str(setting.traces / f"{name}_{part}.gz") for part in ("clients.csv", "pdfs.jsonl")}
            start_s = _start_s(setting.part, span_s, setting.arrivals_s, run.seed)
            span = {"start_s": start_s, "duration_s": setting.arrivals_s, "rate_rps": rate_rps}
            return {"kind": "servegen", "clients": files["clients.csv"], "pdfs": files["pdfs.jsonl"], **span}
        case Generated():
            sessions = math.ceil(requests / CALLS_PER_SESSION)
            return {"kind": "agents", "sessions": sessions, "sessions_per_s": rate_rps / CALLS_PER_SESSION}
        case HeavyTailed():
            size = {"requests": math.ceil(requests), "rate_rps": rate_rps}
            return {"kind": "synthetic", **size, **HEAVY_TAIL}


def _share(part: Part) -> float:
    return part.value[1] - part.value[0]


def _start_s(part: Part, span_s: float, length_s: float, seed: int) -> float:
    """Where a seed's window begins; in a part it stays inside of it."""
    if part is Part.ALL:
        return seed * SEED_APART_S
    return part.value[0] * span_s + seed * SEED_APART_S % max(_share(part) * span_s - length_s, 1.0)


__all__ = [
    "METRICS",
    "WORKLOADS",
    "Condition",
    "Part",
    "Run",
    "Setting",
    "bisect_rate",
    "capacity_rps",
    "config_of",
    "measure",
    "summary_of",
]
