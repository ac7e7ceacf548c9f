"""`shoal bench NAME ...`: the list of benchmarks, and what they share: the lock, exit codes, and one JSON object as
the last line.

A benchmark is a module with `add_arguments(parser)` and `run(args) -> Outcome`. It is imported only when its name is
called. Exit codes: 0 measured, 2 could not measure (one line on stderr says why), 130 stopped by hand with what was
measured so far.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from shoal.bench.lock import bench_lock
from shoal.bench.outcome import Outcome
from shoal.proto.errors import ShoalError

BENCHES = {
    "load": ("shoal.bench.load", "requests at a given rate, or from a trace, against any OpenAI URL or gRPC address"),
    "overhead": ("shoal.bench.overhead", "what Shoal adds to plain vLLM: one instance against one server, in turns"),
    "failover": ("shoal.bench.failover", "kill and freeze instances under streams; compare every token"),
    "fanin": ("shoal.bench.fanin", "one frontend before many fake instances: its CPU, and how old its view gets"),
    "lengths": ("shoal.bench.lengths", "how well answer lengths are foretold on traces, and how calibrated"),
    "policies": ("shoal.bench.policies", "every placement policy over every workload, simulated; a ranking"),
    "autoscale": ("shoal.bench.autoscale", "instance-hours at equal p99 TTFT, with and without migration, simulated"),
    "router": ("shoal.bench.router", "how long one placement takes, by instances and prompt blocks"),
    "steady": ("shoal.bench.steady", "a steady stream over two instances: lost requests, memory growth, blocks"),
    "simulate": ("shoal.bench.simulate", "a cluster on a virtual clock: the production router over modelled engines"),
    "fidelity": ("shoal.bench.fidelity", "the simulator against a real run: errors of TTFT and TPOT"),
    "profile": ("shoal.bench.profile", "what the steps of a live deployment take: a table, and a fit to it"),
    "reality": ("shoal.bench.reality", "the simulator against own real instances: errors, and the order of policies"),
    "pool": ("shoal.bench.pool", "the KV pool: each transport next to plain memcpy, and look-ups in its index"),
    "hangup": ("shoal.bench.hangup", "clients that hang up at random points: leaks, and how soon blocks are back"),
    "migrate": ("shoal.bench.migrate", "moves of running requests: the pause, the copy, and what others notice"),
    "rebalance": ("shoal.bench.rebalance", "round robin, least work, and least work with migration, near capacity"),
    "priority": ("shoal.bench.priority", "the high class under load: idle, without priorities, with them"),
    "disagg": ("shoal.bench.disagg", "prefill and decode apart, or adaptively, against chunked prefill; simulated"),
    "overload": ("shoal.bench.overload", "several times what the cluster can do: goodput left, and every refusal"),
    "chaos": ("shoal.bench.chaos", "load and one random fault after another: violations, faults proved, availability"),
    "siege": ("shoal.bench.siege", "idle, slow and oversized clients: what the honest ones notice, and the memory"),
    "drain": ("shoal.bench.drain", "empty loaded instances by migration: failed requests, and how long it takes"),
}


def add_parser(subparsers: Any) -> None:
    """Adds `bench` to the main command's subparsers; the benchmark's own flags are read when it is called."""
    listing = "\n".join(f"  {name:10} {text}" for name, (_, text) in BENCHES.items())
    parser = subparsers.add_parser(
        "bench",
        help="measure",
        description=f"Benchmarks:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bench", choices=BENCHES, metavar="NAME")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="shoal bench NAME --help lists them")
    parser.set_defaults(run=lambda args: run_bench(args.bench, args.rest))


def run_bench(name: str, argv: Sequence[str]) -> int:
    module = importlib.import_module(BENCHES[name][0])
    parser = argparse.ArgumentParser(prog=f"shoal bench {name}", description=module.__doc__, formatter_class=_Formatter)
    module.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument(
        "--wait",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="for another benchmark to end (default: fail at once)",
    )
    args = parser.parse_args(argv)
    try:
        with bench_lock(name, wait_s=args.wait):
            outcome: Outcome = module.run(args)
    except ShoalError as exc:
        print(f"shoal bench {name}: {exc}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"shoal bench {name}: stopped before anything was measured", file=sys.stderr)
        return 130
    _show(outcome, args.json)
    return outcome.exit_code


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    pass


def _show(outcome: Outcome, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(msgspec.json.encode(outcome.result).decode() + "\n")
        sys.stdout.flush()
        return
    for key, value in outcome.result.items():
        if not isinstance(value, list):
            print(f"{key:28} {value:.3f}" if isinstance(value, float) else f"{key:28} {value}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="shoal")
    add_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(["bench", *(sys.argv[1:] if argv is None else argv)])
    return int(args.run(args))


__all__ = ["BENCHES", "add_parser", "main", "run_bench"]
