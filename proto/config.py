"""The one configuration tree of a cluster: read once, checked, frozen. Every key is also a flag of `shoal up`
(`--engine.block-size`).

A key that does not exist, a value out of range or two keys that contradict each other is an error that names the key.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator

from shoal.proto.errors import StartFailed
from shoal.proto.limits import LimitsConfig
from shoal.proto.section import PositiveFloat, PositiveInt, Section
from shoal.proto.security import EVERYBODY, Purpose, TenantConfig, TlsConfig, as_digests, derive

Port = Annotated[int, Field(ge=0, le=65535)]
NODE = "node"  # as a host: the address of whichever machine a process runs on


class EngineConfig(Section):
    """One engine of the cluster; all instances are alike. Sizes that are None are vLLM's own defaults."""

    kind: Literal["vllm", "fake"] = Field("vllm", description="fake: modelled step times, no model at all")
    dtype: str = Field("auto", description="as vLLM's --dtype")
    block_size: PositiveInt = Field(32, description="tokens per KV block; on CPU a multiple of 32")
    max_model_len: PositiveInt | None = Field(
        None, description="prompt and output tokens of one request; None: the model's"
    )
    max_num_batched_tokens: PositiveInt = Field(
        2048, description="token budget of one step; longer prompts are chunked"
    )
    max_num_seqs: PositiveInt = Field(128, description="requests in the running batch")
    kv_cache_bytes: PositiveInt | None = Field(
        None, description="per instance; None: 1 GiB on CPU, vLLM's choice on GPU"
    )
    tensor_parallel_size: PositiveInt = Field(1, description="GPUs, or CPU processes, of one instance")
    enforce_eager: bool | None = Field(None, description="None: true on CPU, false on GPU")
    max_loras: PositiveInt = Field(4, description="different adapters in one step")
    max_lora_rank: PositiveInt = Field(16, description="the largest rank among the adapters")
    pin_cores: bool = Field(False, description="CPU only: instance i runs on core i, modulo the cores")
    extra_args: tuple[str, ...] = Field((), description="further vLLM flags, verbatim, for engines and frontends")


class FakeEngineConfig(Section):
    """Coefficients of the fake engine's step time in ms: a + b*P + c*sum(p*ctx + p*p/2)/1e6 + d*D + e*KV/1000.

    P = prefill tokens, p and ctx = chunk and computed tokens of each prefill, D = decodes, KV = their context tokens.
    """

    a_ms: float = Field(4.5, ge=0, description="per step")
    b_ms: float = Field(0.0338, ge=0, description="per prefill token")
    c_ms: float = Field(29.6, ge=0, description="per million pairs of a prefill token with a token before it")
    d_ms: float = Field(0.12, ge=0, description="per decoding request")
    e_ms: float = Field(0.207, ge=0, description="per thousand context tokens of decoding requests")
    total_blocks: PositiveInt = Field(4096, description="KV blocks of one instance")
    vocabulary: PositiveInt = Field(256, description="token ids are below this")
    block_bytes: PositiveInt = Field(4096, description="stand-in bytes of one KV block, moved with a request")
    poison_token: int | None = Field(
        None, description="a prompt that holds this token ends the engine: for fault tests"
    )


class AdmissionConfig(Section):
    max_requests: PositiveInt = Field(1024, description="per frontend, waiting for their first token or a place")
    max_queued_tokens: PositiveInt = Field(2_000_000, description="prompt tokens of those requests")
    default_deadline_s: PositiveFloat = Field(600.0, description="to the first token, where the request names none")
    no_instance_wait_s: PositiveFloat = Field(30.0, description="wait for an instance to come back, then 503")


class MigrationConfig(Section):
    """When running and waiting requests move between instances by themselves. Moves by hand and drains always work."""

    enabled: bool = Field(True, description="false: nothing moves for balance, room or priority")
    moves_per_instance: PositiveInt = Field(4, description="in flight at once, out of one instance and into one")
    budget_bytes: PositiveInt = Field(1 << 30, description="KV bytes in flight at once, out of one instance")
    rest_s: PositiveFloat = Field(2.0, description="a moved request rests so long, times its number of moves")
    min_gain_s: PositiveFloat = Field(0.05, description="a move must save at least so much more than it costs")
    crowded_below_tokens: float = Field(64, description="freeness below which running requests leave an instance")
    headroom_tokens: int = Field(1600, ge=0, description="kept free beside requests of the high class (priority < 0)")
    drain_timeout_s: PositiveFloat = Field(
        60.0, description="then a draining instance stops, and what is still there goes on elsewhere by fail-over"
    )


class DisaggregationConfig(Section):
    """Prefill and decode on instances of their own. The first `prefill` instances prefill, the next `decode` ones
    decode, all others do both. `shoal roles` changes that while they run.
    """

    prefill: int = Field(0, ge=0, description="instances that compute prompts and hand over after the first token")
    decode: int = Field(0, ge=0, description="instances that go on with them, and prefill short prompts")
    split_from_tokens: PositiveInt = Field(
        512, description="prompts with at least so many tokens to compute go to a prefill instance"
    )
    adaptive: bool = Field(False, description="change roles by load: decodes are packed up to the TPOT goal")
    tpot_steps: float = Field(1.3, gt=1, description="that goal, in decode steps of a batch of one")
    patience_s: PositiveFloat = Field(1.0, description="for so long before a role is changed")
    cooldown_s: PositiveFloat = Field(5.0, description="between two changes")


class ScalingConfig(Section):
    """How many instances there are, by average freeness: KV tokens that are left to each running request."""

    enabled: bool = Field(False, description="false: `instances`, and whatever `shoal scale` says")
    min_instances: PositiveInt = Field(1, description="never fewer")
    max_instances: PositiveInt = Field(8, description="never more")
    grow_below_tokens: float = Field(256, description="average freeness below which one is added")
    shrink_above_tokens: float = Field(4096, description="average freeness above which one is drained")
    patience_s: PositiveFloat = Field(10.0, description="for so long before anything is done")
    cooldown_s: PositiveFloat = Field(60.0, description="between two changes")


PolicyName = Literal[
    "prefix_least_work",
    "least_work",
    "least_impact",
    "least_delay",
    "round_robin",
    "random",
    "power_of_two",
    "join_shortest_queue",
    "lmetric",
    "sglang_cache_aware",
    "dynamo_cost",
    "aibrix_prefix_cache",
    "llmd",
    "llumnix_freeness",
    "llumnix_backlog",
    "memserve_prompt_tree",
    "session_sticky",
    "autellix",
]


class SloConfig(Section):
    """What clients are promised, for the metrics: TTFT = base + 2 x the prefill of the uncached prompt alone, TPOT = 3
    decode steps of a lone request. Measure both with `shoal bench` for your model and machine.
    """

    ttft_base_s: PositiveFloat = Field(0.5, description="time to first token beyond the prefill")
    prefill_ms_per_token: PositiveFloat = Field(0.25, description="of a lone request; the goal allows twice that")
    decode_step_ms: PositiveFloat = Field(20.0, description="of a lone request; the goal per token is three times that")


class PoolConfig(Section):
    """The KV pool of a node: blocks outlive the engine that made them, and other instances find them."""

    memory_bytes: int = Field(0, ge=0, description="of /dev/shm per node, taken at the start; 0: no pool")
    disk_bytes: int = Field(0, ge=0, description="of the cold tier below it; 0: none")
    disk_folder: Path = Field(Path("/var/tmp/shoal-pool"), description="of the cold tier")
    segment_bytes: PositiveInt = Field(64 << 20, description="by which memory grows and shrinks")
    transports: tuple[Literal["arena", "nixl", "stream"], ...] = Field(
        ("arena", "stream"), description="between nodes; the fastest that a probe finds is used. nixl: needs its wheels"
    )
    shares: dict[str, float] = Field({}, description="salt -> share of memory; written by the controller: see tenants")


class TracingConfig(Section):
    """Spans of each request, over OpenTelemetry. Needs the extra `tracing`."""

    endpoint: str = Field("", description="of the collector, OTLP over HTTP: http://HOST:4318/v1/traces; empty: off")
    sample: float = Field(1.0, ge=0, le=1, description="share of the requests that bring no decision of their own")


class ClusterConfig(Section):
    model: str = Field("tiny", description="'tiny' (made on the spot), a Hugging Face id, or a folder")
    served_model_name: str | None = Field(
        None, description="the name that clients use; None: the folder's name, or the id"
    )
    instances: int = Field(2, ge=1, le=4096, description="vLLM engines")
    frontends: int = Field(1, ge=1, le=64, description="API servers; they share the ports")
    host: str = Field(
        "127.0.0.1", description="address of every listener of ours; 'node': each machine's own, for a Ray over several"
    )
    http_port: Port = Field(8000, description="OpenAI and Anthropic API; 0: a free one")
    grpc_port: Port = Field(50051, description="gRPC API; 0: a free one")
    metrics_port: Port = Field(
        0, description="first port of the metrics pages on a machine, each process takes the next free one; 0: any"
    )
    frontend: Literal["own", "haproxy"] = Field("own", description="own listeners, or HTTP through Ray Serve's HAProxy")
    policy: PolicyName = Field("prefix_least_work", description="how requests are placed; see docs/policies.md")
    weights: dict[str, float] = Field({}, description="scorer name -> weight, over the policy's own")
    keys: dict[str, str] = Field(
        {}, description="API key, or 'sha256:' and its digest -> tenant; none at all: no key needed, tenant 'default'"
    )
    keys_file: Path | None = Field(None, description="YAML of the same kind, read again when it changes")
    admin_keys: dict[str, str] = Field({}, description="key of the admin API -> the person's name in the audit log")
    tenants: dict[str, TenantConfig] = Field({}, description="tenant -> what it may use; '*': every other one")
    tls: TlsConfig = TlsConfig()
    admin_port: Port = Field(0, description="of the admin API, on the controller's machine; 0: a free one")
    secret: SecretStr = Field(
        default_factory=lambda: SecretStr(secrets.token_hex(16)), description="of tenant salts and inner calls"
    )
    lora: dict[str, str] = Field({}, description="adapter name -> folder")
    registry: str = Field(
        "memory",
        pattern=r"^(memory|redis://.+)$",
        description="where desired state outlives the controller: memory, or redis://...",
    )
    spares: int = Field(
        1, ge=0, le=8, description="processes per node with vLLM imported, to replace a dead instance quickly"
    )
    log_format: Literal["text", "json"] = Field("text", description="of frontends and the controller, on stderr")
    log_requests: bool = Field(False, description="one line per ended request: ids, tenant, outcome, counts; no text")
    start_timeout_s: PositiveFloat = Field(600.0, description="until every instance is ready, else `shoal up` fails")
    console: bool = Field(True, description="/console on the HTTP port; with keys, who looks needs an admin key")
    engine: EngineConfig = EngineConfig()
    fake: FakeEngineConfig = FakeEngineConfig()
    pool: PoolConfig = PoolConfig()
    admission: AdmissionConfig = AdmissionConfig()
    limits: LimitsConfig = LimitsConfig()
    slo: SloConfig = SloConfig()
    migration: MigrationConfig = MigrationConfig()
    scaling: ScalingConfig = ScalingConfig()
    disaggregation: DisaggregationConfig = DisaggregationConfig()
    tracing: TracingConfig = TracingConfig()

    @model_validator(mode="after")
    def _consistent(self) -> ClusterConfig:
        if self.http_port and self.http_port == self.grpc_port:
            raise ValueError(f"http_port and grpc_port are both {self.http_port}")
        if self.engine.kind == "fake" and self.pool.memory_bytes:
            raise ValueError("pool.memory_bytes: the fake engine has no KV blocks to keep")
        if self.engine.kind == "fake" and self.lora:
            raise ValueError("lora: the fake engine has no adapters")
        if self.scaling.min_instances > self.scaling.max_instances:
            raise ValueError("scaling: min_instances is above max_instances")
        if bool(self.disaggregation.prefill) != bool(self.disaggregation.decode):
            raise ValueError("disaggregation: prefill and decode must both be 0, or neither")
        if self.disaggregation.prefill + self.disaggregation.decode > self.instances:
            raise ValueError("disaggregation: prefill and decode are more than all instances")
        if self.tls.inner_cert and "nixl" in self.pool.transports:
            raise ValueError("pool.transports: nixl does not encrypt, so not with tls.inner_cert")
        return self

    @field_validator("keys", "admin_keys")
    @classmethod
    def _hashed(cls, keys: dict[str, str]) -> dict[str, str]:
        return as_digests(keys)

    def token(self, purpose: Purpose) -> str:
        return derive(self.secret.get_secret_value(), purpose)

    def tenant(self, name: str) -> TenantConfig:
        return self.tenants.get(name) or self.tenants.get(EVERYBODY) or TenantConfig()

    @property
    def http_url(self) -> str:
        """Behind HAProxy, TLS is for whatever stands in front of that."""
        secure = self.tls.edge_cert and self.frontend == "own"
        return f"{'https' if secure else 'http'}://{self.host}:{self.http_port}"

    @property
    def needs_key(self) -> bool:
        return bool(self.keys or self.keys_file)

    @property
    def model_name(self) -> str:
        """The name that clients use."""
        return self.served_model_name or (
            "tiny" if self.model == "tiny" else Path(self.model).name if Path(self.model).exists() else self.model
        )


def parse_config(tree: dict[str, Any]) -> ClusterConfig:
    """Raises StartFailed with one line per wrong key."""
    try:
        return ClusterConfig.model_validate(tree)
    except ValidationError as exc:
        lines = [
            f"{'.'.join(map(str, e['loc'])) or 'config'}: {e['msg']} (given {e['input']!r:.80})" for e in exc.errors()
        ]
        raise StartFailed("; ".join(lines)) from None


def load_config(path: Path | None, overrides: dict[str, Any]) -> ClusterConfig:
    """The YAML file, with `overrides` (dotted keys) laid over it."""
    tree: dict[str, Any] = {}
    if path is not None:
        try:
            tree = yaml.safe_load(path.read_text()) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
            raise StartFailed(f"config {path}: {exc}") from None
        if not isinstance(tree, dict):
            raise StartFailed(f"config {path}: must be a mapping of keys, given {type(tree).__name__}")
    for dotted, value in overrides.items():
        *parents, leaf = dotted.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return parse_config(tree)


__all__ = [
    "NODE",
    "AdmissionConfig",
    "ClusterConfig",
    "DisaggregationConfig",
    "EngineConfig",
    "FakeEngineConfig",
    "MigrationConfig",
    "PoolConfig",
    "ScalingConfig",
    "SloConfig",
    "TracingConfig",
    "load_config",
    "parse_config",
]
