"""A whole cluster on a virtual clock: the production router over modelled engines, for minutes of traffic in seconds.

The configuration is a YAML file (bench/sim/config.py lists the keys): fleet, step times, policy, workload. The same
file gives the same result, and the same `decision_hash`, every time. Latencies are those of the model: they rank
policies, and say of a real deployment what `shoal bench fidelity` says they do.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from shoal.bench.outcome import Outcome
from shoal.bench.sim.build import build, build_planners, step_times
from shoal.bench.sim.config import load_sim_config
from shoal.bench.sim.page import write_page
from shoal.bench.sim.results import Slo, summarize
from shoal.bench.sim.sampler import Sampler
from shoal.bench.sim.simulation import Simulation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with plots there")


def run(args: argparse.Namespace) -> Outcome:
    config = load_sim_config(args.config)
    simulation, sampler, planners = build(config), Sampler(), build_planners(config)
    slo = Slo(step_times(config))
    began_s = time.perf_counter()
    with tqdm(total=simulation.workload.total, unit="request", file=sys.stderr) as bar, _no_collector():
        results = simulation.run([sampler, *planners], progress=bar.update)
    wall_s = time.perf_counter() - began_s
    summary = summarize(results, slo) | _of_the_fleet(simulation, sampler)
    for plugin in planners:
        summary |= plugin.summary()
    if args.html:
        title = f"{config.policy} over {config.instances} instances, {config.workload.kind}"
        write_page(
            args.html,
            title=title,
            config=config.model_dump(),
            summary=summary,
            results=results,
            slo=slo,
            sampler=sampler,
        )
    return Outcome(summary | {"wall_s": wall_s, "requests_per_wall_s": simulation.workload.total / wall_s})


@contextmanager
def _no_collector() -> Iterator[None]:
    """A run makes no cycles, and walking over a million requests again and again takes its time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _of_the_fleet(simulation: Simulation, sampler: Sampler) -> dict[str, Any]:
    return {
        "max_over_mean_requests": sampler.max_over_mean(),
        "steps": sum(instance.steps for instance in simulation.instances.values()),
        "events": simulation.events.happened,
        "decisions": simulation.decisions,
        "decision_hash": simulation.decision_hash,
    }


__all__ = ["add_arguments", "run"]
