"""Prefill and decode apart, against both on every instance, under bursts of long prompts. Simulated: the production
router, roles and migration machine over modelled engines.

Colocated fleets differ in the chunk (token budget of a step); split ones in how many prefill. The adaptive split
begins with one instance in four decoding and changes roles by load. Every fleet gets the same requests at the same
times, all with live migration on. `pause_steps`: from parked to taken over, in lone decode steps.

By default: a 70B model on four A100, whose KV is 320 KiB per token, each with a 200 Gbit/s adapter of its own.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from shoal.bench.outcome import Outcome
from shoal.bench.report import plot_bars
from shoal.bench.sim.build import build, build_moves, build_roles
from shoal.bench.sim.config import SimConfig, parse_sim_config
from shoal.bench.sim.results import Slo, summarize
from shoal.bench.sim.step_times import step_time
from shoal.instance.step_time import StepWork
from shoal.proto.errors import InvalidArgument

CHUNKS = (256, 512, 1024, 2048)
SPLIT_CHUNK = 2048
ADAPTIVE = "adaptive"
KEPT = ("goodput", "slo_met_share", "ttft_ms_p50", "ttft_ms_p99", "tpot_ms_p50", "tpot_ms_p99", "preemptions", "moves")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--instances", type=int, default=8)
    parser.add_argument("--requests", type=int, default=800)
    parser.add_argument("--rate", type=float, default=6.0, help="requests per second, over all instances")
    parser.add_argument("--cv", type=float, default=3.0, help="of the gaps between arrivals")
    parser.add_argument("--input-tokens", type=int, default=3000)
    parser.add_argument("--output-tokens", type=int, default=200)
    parser.add_argument("--step-time", default="llama-3.1-70b/a100/tp4", help="a name of the catalogue")
    parser.add_argument("--kv-bytes-per-token", type=int, default=327_680)
    parser.add_argument("--link-bytes-per-s", type=float, default=100e9, help="of each instance, out and in")
    parser.add_argument("--policy", default="prefix_least_work")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, metavar="FILE.png")


def config_of(args: argparse.Namespace, fleet: dict[str, Any]) -> SimConfig:
    workload = {
        "kind": "synthetic",
        "requests": args.requests,
        "rate_rps": args.rate,
        "arrival": f"gamma:{args.cv}",
        "input_tokens": args.input_tokens,
        "output_tokens": args.output_tokens,
        "max_input_tokens": 32_000,
        "max_output_tokens": 2_000,
    }
    common = {
        "instances": args.instances,
        "policy": args.policy,
        "step_time": args.step_time,
        "seed": args.seed,
        "kv_bytes_per_token": args.kv_bytes_per_token,
        "link_bytes_per_s": args.link_bytes_per_s,
    }
    return parse_sim_config({"workload": workload, "migration": {}, "in_flight_bytes": 1 << 28, **common, **fleet})


def fleets(instances: int) -> dict[str, dict[str, Any]]:
    """By name: colocated:CHUNK, split:PREFILL+DECODE, adaptive."""
    found: dict[str, dict[str, Any]] = {f"colocated:{chunk}": {"max_num_batched_tokens": chunk} for chunk in CHUNKS}
    for prefill in sorted({instances // 2, instances - max(1, instances // 4), instances - 1}):
        found[f"split:{prefill}+{instances - prefill}"] = _split(prefill, instances)
    found[ADAPTIVE] = _split(instances - max(1, instances // 4), instances) | {"adaptive_roles": True}
    return found


def _split(prefill: int, instances: int) -> dict[str, Any]:
    roles = {"prefill_instances": prefill, "decode_instances": instances - prefill}
    return {"max_num_batched_tokens": SPLIT_CHUNK, **roles}


def run_fleet(name: str, config: SimConfig) -> dict[str, Any]:
    times = step_time(config.step_time, form=config.form, overhead_ms=config.overhead_ms)
    lone_ms = times.step_ms(StepWork(decodes=1))
    simulation, (moves,) = build(config), build_moves(config)
    roles = [build_roles(config, moves)] if config.adaptive_roles else []
    summary = summarize(simulation.run([moves, *roles]), Slo(times))
    table = moves.summary()
    return {
        "fleet": name,
        **{key: summary[key] for key in KEPT},
        **{f"pause_steps_{p}": table[f"pause_ms_{p}"] / lone_ms for p in ("p50", "p99")},
        "moves_by_ending": table["moves_by_ending"],
        "role_changes": sum(len(plugin.changes) for plugin in roles),
    }


def gains(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Of the adaptive split over colocated fleets. `best`: the chunk with the lowest p99 TPOT."""
    by_name = {row["fleet"]: row for row in rows}
    ours, plain = by_name[ADAPTIVE], by_name[f"colocated:{max(CHUNKS)}"]
    colocated = [row for row in rows if row["fleet"].startswith("colocated")]
    best = min(colocated, key=lambda row: row["tpot_ms_p99"])
    return {
        f"tpot_p99_over_colocated_{max(CHUNKS)}": plain["tpot_ms_p99"] / ours["tpot_ms_p99"],
        "tpot_p99_over_best_colocated": best["tpot_ms_p99"] / ours["tpot_ms_p99"],
        "goodput_over_best_colocated": ours["goodput"] / max(row["goodput"] for row in colocated),
    }


def run(args: argparse.Namespace) -> Outcome:
    if args.instances < 2:
        raise InvalidArgument("instances", limit="at least 2", given=args.instances)
    rows = [run_fleet(name, config_of(args, fleet)) for name, fleet in fleets(args.instances).items()]
    if args.plot:
        plot_bars([row | {"policy": row["fleet"], "share": args.rate} for row in rows], "tpot_ms_p99", args.plot)
    return Outcome({**gains(rows), "rows": rows})


__all__ = ["add_arguments", "config_of", "fleets", "gains", "run", "run_fleet"]
