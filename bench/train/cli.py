"""`shoal train`: router weights out of simulated traffic, with a learning curve and a file that says where they come
from.

Trains on the first 60 % of each trace's time and scores on the rest, against every named policy given. Needs the extra
`train` (cma). Work goes to Ray tasks with --ray, else to processes of this machine.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path

import msgspec
from tqdm import tqdm

from shoal.bench.policy_grid import WORKLOADS, Part, Setting, capacity_rps
from shoal.bench.train.spread import spreading
from shoal.bench.train.trainer import Budget, Point, Trainer
from shoal.proto.errors import NotFound, ShoalError
from shoal.router.weights import write_weights

RIVALS = ("least_delay", "lmetric", "least_work", "llumnix_backlog", "dynamo_cost", "join_shortest_queue")
QUICK = Budget(generations=2, candidates=4, episodes=2, seconds=5.0)


def main(argv: Sequence[str]) -> int:
    args = _parser().parse_args(argv)
    try:
        run(args)
    except ShoalError as exc:
        print(f"shoal train: {exc}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="shoal train", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--traces", type=Path, default=Path("../shared/traces"), help="folder")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="NAME")
    parser.add_argument("--generations", type=int, default=40)
    parser.add_argument("--candidates", type=int, default=12, help="of each generation")
    parser.add_argument("--episodes", type=int, default=12, help="of each candidate")
    parser.add_argument("--seconds", type=float, default=20.0, help="of arrivals, in each episode")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="trained", help="version of the weights")
    parser.add_argument("--out", type=Path, default=Path("weights.json"), metavar="FILE")
    parser.add_argument("--curve", type=Path, metavar="FILE", help="learning curve, as JSON")
    parser.add_argument("--quick", action="store_true", help="a few short episodes: does it run?")
    parser.add_argument("--ray", action="store_true", help="as Ray tasks, on the cluster that RAY_ADDRESS names")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes, without --ray")
    return parser


def run(args: argparse.Namespace) -> None:
    if not args.traces.is_dir():
        raise NotFound(f"no folder {args.traces}: name it with --traces")
    budget = QUICK if args.quick else Budget(args.generations, args.candidates, args.episodes, args.seconds)
    capacity = _capacity(args.traces, budget.seconds)
    with spreading(args.ray, args.jobs) as spread:
        trainer = Trainer(args.traces, args.workloads, budget, seed=args.seed, capacity=capacity, spread=spread)
        with tqdm(total=budget.generations, unit="generation", file=sys.stderr) as bar:

            def told(point: Point) -> None:
                bar.set_postfix(best=f"{point.best:+.4f}", mean=f"{point.mean:+.4f}")
                bar.update()

            vector = trainer.train(told)
        scores = trainer.exam(vector, RIVALS)
    versions = {name: version(name) for name in ("shoal", "numpy", "cma")}
    args.out.write_bytes(write_weights(trainer.weights(vector, args.name, versions, scores)))
    if args.curve:
        args.curve.write_bytes(msgspec.json.encode([point._asdict() for point in trainer.curve]))
    print(f"{args.out}: {trainer.played} episodes; shoal router weights {args.out} shows it")


def _capacity(traces: Path, seconds: float) -> Callable[[str, int], float]:
    """Of fleets of 4; larger ones hold as much more, near enough for drawing loads."""

    @cache
    def of_four(workload: str) -> float:
        return capacity_rps(Setting(traces, seconds, 0.05, Part.TRAIN), workload, 4, rounds=3)

    return lambda workload, instances: of_four(workload) * instances / 4


__all__ = ["main", "run"]
