"""From a configuration to a simulation: its workload, its fleet, and who routes."""

from __future__ import annotations

from functools import partial

from shoal.bench.sim.config import SimConfig
from shoal.bench.sim.links import Links
from shoal.bench.sim.moves import Moves
from shoal.bench.sim.roles import Roles
from shoal.bench.sim.scaler import Scaler
from shoal.bench.sim.simulation import Simulation
from shoal.bench.sim.step_times import catalogue, step_time
from shoal.bench.sim.workloads import build_workload
from shoal.instance.migration.budget import BudgetLimits
from shoal.instance.step_model import StepModel
from shoal.instance.step_time import StepTime, StepWork
from shoal.proto.config import DisaggregationConfig, MigrationConfig
from shoal.router.contract import InstanceInfo, Role
from shoal.router.foreseer import Foreseer
from shoal.router.foresight import Foresight, StepCoefficients
from shoal.router.length import LengthModel, edges_by_time
from shoal.router.place import Policy
from shoal.router.profile import build_policy


def build(config: SimConfig, policy: Policy | None = None) -> Simulation:
    """`policy`: instead of the one that the configuration names."""
    simulation = Simulation(
        build_workload(config),
        policy=policy or build_policy(config.policy, config.weights),
        frontends=config.frontends,
        admission=config.admission,
        block_size=config.block_size,
        hop_s=config.hop_s,
        report_delay_s=config.report_delay_s,
        links=Links(config.link_bytes_per_s),
        seed=config.seed,
        fast=config.fast_forward,
        foreseer=lambda: _foreseer(config),
    )
    times = step_times(config)
    for frontend in simulation.frontends:
        frontend.view.split_from_tokens = config.split_from_tokens
    for number in range(config.instances):
        simulation.join(*fleet_member(config, f"i{number}", _role(config, number)), times)
    return simulation


def build_planners(config: SimConfig) -> list[Moves | Scaler]:
    """The plug-ins that move requests, and that change the fleet, as far as wanted."""
    planners: list[Moves | Scaler] = [*build_moves(config)]
    if config.scaling is not None:
        headroom_tokens = (config.migration or MigrationConfig()).headroom_tokens
        make = partial(fleet_member, config)
        planners.append(Scaler(config.scaling, make, step_times(config), config.start_s, headroom_tokens))
    return planners


def step_times(config: SimConfig) -> StepTime:
    return step_time(config.step_time, form=config.form, overhead_ms=config.overhead_ms)


def build_moves(config: SimConfig) -> list[Moves]:
    """The plug-in that moves requests, if any is wanted."""
    if config.migration is None:
        return []
    return [
        Moves(
            config.migration,
            block_size=config.block_size,
            bytes_per_token=config.kv_bytes_per_token,
            limits=BudgetLimits(in_flight_bytes=config.in_flight_bytes),
        )
    ]


def build_roles(config: SimConfig, moves: Moves) -> Roles:
    """The plug-in that changes roles by load."""
    rules = DisaggregationConfig(
        tpot_steps=config.role_tpot_steps, patience_s=config.role_patience_s, cooldown_s=config.role_cooldown_s
    )
    return Roles(rules, moves, lone_step_s=step_times(config).step_ms(StepWork(decodes=1)) / 1e3)


def _role(config: SimConfig, number: int) -> Role:
    if number < config.prefill_instances:
        return Role.PREFILL
    return Role.DECODE if number < config.prefill_instances + config.decode_instances else Role.MIXED


def _foreseer(config: SimConfig) -> Foreseer:
    """It knows the linear form of the step times, as a fit would tell it, and learns the rest."""
    known = catalogue().get(config.step_time)
    foresight = Foresight(StepCoefficients(*known.linear)) if known else None
    return Foreseer(LengthModel(edges_by_time()) if config.predict_lengths else None, foresight)


def fleet_member(config: SimConfig, name: str, role: Role = Role.MIXED) -> tuple[InstanceInfo, StepModel]:
    sizes = {
        "block_size": config.block_size,
        "total_blocks": config.total_blocks,
        "max_num_batched_tokens": config.max_num_batched_tokens,
        "max_num_seqs": config.max_num_seqs,
        "max_model_len": min(config.max_model_len, config.block_size * config.total_blocks),
    }
    model = StepModel(**sizes, record_changes=config.prefix_caching)
    return InstanceInfo(name, role, **sizes), model


__all__ = ["build", "build_moves", "build_planners", "build_roles", "fleet_member", "step_times"]
