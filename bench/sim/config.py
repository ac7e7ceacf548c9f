"""The configuration of a simulation: one YAML file, read once, checked, frozen. A wrong key is named."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError

from shoal.proto.config import AdmissionConfig, MigrationConfig, PositiveFloat, PositiveInt, ScalingConfig, Section
from shoal.proto.errors import InvalidArgument


class ClassConfig(Section):
    """A share of the requests; see RequestClass."""

    name: str
    share: PositiveFloat = 1.0
    tenant: str = "default"
    priority: int = 0


class Rows(Section):
    """What every workload of rows may have."""

    requests: PositiveInt | None = Field(None, description="at most so many, from the start")
    rate_rps: PositiveFloat | None = Field(None, description="scaled to this mean; None: as it is")
    max_input_tokens: PositiveInt = 1 << 20
    max_output_tokens: PositiveInt = 1 << 20
    classes: tuple[ClassConfig, ...] = (ClassConfig(name="default"),)


class TraceConfig(Rows):
    """`copies` of the trace run at once, each begun at another point of it and with prefixes of its own."""

    kind: Literal["trace"]
    file: str
    start_s: float = 0.0
    end_s: float = float("inf")
    copies: PositiveInt = 1


class SyntheticConfig(Rows):
    kind: Literal["synthetic"]
    requests: PositiveInt = 1000
    rate_rps: PositiveFloat = 10.0
    arrival: str = Field("poisson", description="poisson, fixed or gamma:CV")
    tide: float = Field(0.0, ge=0, lt=1, description="the rate rises and falls by this share of its mean")
    tide_s: PositiveFloat = 600.0
    input_tokens: PositiveInt = 665
    input_sigma: float = Field(0.8, ge=0, description="above 0: log-normal with the mean given")
    output_tokens: PositiveInt = 148
    output_sigma: float = Field(0.8, ge=0)


class ServegenConfig(Rows):
    """Each client is a tenant."""

    kind: Literal["servegen"]
    clients: str
    pdfs: str
    start_s: float = 0.0
    duration_s: PositiveFloat = 600.0


class AgentsConfig(Section):
    """See AgentShape."""

    kind: Literal["agents"]
    sessions: PositiveInt = 200
    sessions_per_s: PositiveFloat = 1.0
    arrival: str = "poisson"
    applications: PositiveInt = 8
    shared_tokens: int = Field(2048, ge=0)
    turns: float = Field(6.0, ge=1)
    message_tokens: PositiveInt = 256
    output_tokens: PositiveInt = 200
    sigma: float = Field(0.8, ge=0)
    pause_s: float = Field(3.0, ge=0)
    fan_out_share: float = Field(0.1, ge=0, le=1)
    fan_out: PositiveInt = 4
    max_context_tokens: PositiveInt = 32_000


WorkloadConfig = Annotated[TraceConfig | SyntheticConfig | ServegenConfig | AgentsConfig, Field(discriminator="kind")]


class SimConfig(Section):
    """One cluster of equal instances. Lengths are limited to what `max_model_len` has room for."""

    workload: WorkloadConfig
    seed: int = 0
    instances: PositiveInt = 4
    frontends: PositiveInt = 1
    policy: str = "prefix_least_work"
    weights: dict[str, float] = {}
    step_time: str = Field("llama-3.1-8b/h100/tp1", description="a name of the catalogue, or a table's path")
    form: Literal["linear", "hinge", "table"] = "hinge"
    overhead_ms: float = Field(3.0, ge=0, description="per step, on top of the kernels")
    block_size: PositiveInt = 16
    total_blocks: PositiveInt = 28_000
    max_num_batched_tokens: PositiveInt = 2048
    max_num_seqs: PositiveInt = 128
    max_model_len: PositiveInt = 131_072
    prefix_caching: bool = True
    max_new_tokens: PositiveInt = Field(4096, description="what clients ask for: all that a policy knows of a length")
    prefill_instances: int = Field(0, ge=0, description="with this role; then `decode_instances`; all others do both")
    decode_instances: int = Field(0, ge=0)
    split_from_tokens: PositiveInt = 512
    adaptive_roles: bool = Field(False, description="change roles by load, as the controller does")
    role_tpot_steps: float = Field(1.3, gt=1)
    role_patience_s: PositiveFloat = 1.0
    role_cooldown_s: PositiveFloat = 5.0
    predict_lengths: bool = Field(False, description="frontends learn the length of each answer, as in production")
    hop_s: float = Field(0.0005, ge=0, description="one way between frontend and instance")
    report_delay_s: float = Field(0.0, ge=0, description="of reports, on top of a hop: how stale views are")
    migration: MigrationConfig | None = Field(None, description="live migration by these rules; null: none")
    kv_bytes_per_token: PositiveInt = 131_072
    in_flight_bytes: PositiveInt = Field(16 << 20, description="of all moves out of one instance")
    link_bytes_per_s: PositiveFloat = Field(10e9, description="of each instance, out and in")
    scaling: ScalingConfig | None = Field(None, description="the fleet grows and shrinks by these; null: it stays")
    start_s: PositiveFloat = Field(20.0, description="until a new instance serves")
    fast_forward: bool = Field(True, description="false: every step is an event")
    admission: AdmissionConfig = AdmissionConfig(max_requests=100_000, max_queued_tokens=1_000_000_000)


def parse_sim_config(tree: Any) -> SimConfig:
    """Raises InvalidArgument with one line per wrong key."""
    try:
        return SimConfig.model_validate(tree)
    except ValidationError as exc:
        wrong = [f"{'.'.join(map(str, e['loc'])) or 'config'}: {e['msg']}" for e in exc.errors()]
        raise InvalidArgument("config", limit="a simulation", given="; ".join(wrong)) from None


def load_sim_config(path: Path) -> SimConfig:
    try:
        return parse_sim_config(yaml.safe_load(path.read_text()))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise InvalidArgument("config", limit="a YAML file", given=f"{path}: {exc}") from None


__all__ = [
    "AgentsConfig",
    "ClassConfig",
    "ServegenConfig",
    "SimConfig",
    "SyntheticConfig",
    "TraceConfig",
    "WorkloadConfig",
    "load_sim_config",
    "parse_sim_config",
]
