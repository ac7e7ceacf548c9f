"""From a configuration to a workload: rows of a trace, drawn rows, or sessions. The seed decides everything."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from shoal.bench.arrivals import arrival_times, parse_arrival, with_tide
from shoal.bench.servegen import draw_rows, read_clients
from shoal.bench.sim.agents import Agents, AgentShape
from shoal.bench.sim.config import AgentsConfig, ServegenConfig, SimConfig, SyntheticConfig, TraceConfig
from shoal.bench.sim.names import names_of
from shoal.bench.sim.request import Listed, SimRequest, Workload
from shoal.bench.traces import TraceRow, cut, find_trace, read_trace, scale_to_rate
from shoal.bench.workload import (
    FixedLength,
    Length,
    LoadRequest,
    LogNormalLength,
    RequestClass,
    build_requests,
    synthetic_rows,
)

RowsConfig = TraceConfig | SyntheticConfig | ServegenConfig


def build_workload(config: SimConfig) -> Workload:
    match config.workload:
        case AgentsConfig() as agents:
            return _agents(config, agents)
        case _ as rows:
            return _listed(config, rows)


def _agents(config: SimConfig, agents: AgentsConfig) -> Agents:
    given = agents.model_dump(exclude={"kind", "sessions", "sessions_per_s", "arrival"})
    rng = Random(config.seed)
    starts_s = arrival_times(parse_arrival(agents.arrival), agents.sessions_per_s, agents.sessions, rng)
    return Agents(
        AgentShape(**given),
        starts_s,
        block_size=config.block_size,
        max_new_tokens=config.max_new_tokens,
        seed=config.seed,
    )


def _listed(config: SimConfig, wanted: RowsConfig) -> Listed:
    rng = Random(config.seed)
    match wanted:
        case TraceConfig():
            tenants, rows = None, _trace_rows(wanted, rng)
        case SyntheticConfig():
            tenants, rows = None, _synthetic_rows(wanted, rng)
        case ServegenConfig():
            clients = read_clients(find_trace(wanted.clients), find_trace(wanted.pdfs))
            drawn = draw_rows(
                clients, start_s=wanted.start_s, duration_s=wanted.duration_s, rate_rps=wanted.rate_rps, rng=rng
            )
            tenants, rows = [client for client, _ in drawn], [row for _, row in drawn]
    rows = rows[: wanted.requests]
    kinds = [RequestClass(kind.name, kind.share, kind.tenant, kind.priority) for kind in wanted.classes]
    requests = [_request(config, wanted, request) for request in build_requests(rows, rng, classes=kinds)]
    for request, tenant in zip(requests, tenants or (), strict=False):
        request.tenant = tenant
    return Listed(requests)


def _request(config: SimConfig, wanted: RowsConfig, row: LoadRequest) -> SimRequest:
    room = min(config.max_model_len, config.block_size * config.total_blocks)
    prompt = min(row.input_tokens, wanted.max_input_tokens, room - 1)
    output = max(1, min(row.output_tokens, wanted.max_output_tokens, room - prompt))
    return SimRequest(
        f"r{row.index}",
        row.due_s,
        prompt,
        output,
        max(config.max_new_tokens, output),
        _names(config, row, prompt, output) if config.prefix_caching else (),
        kind=row.kind.name,
        tenant=row.kind.tenant,
        priority=row.kind.priority,
    )


def _names(config: SimConfig, row: LoadRequest, prompt: int, output: int) -> list[bytes]:
    """What the trace shares, and then its own: nobody else has those, but they take room, and it is preempted."""
    shared = names_of(row.block_ids, row.block_tokens, config.block_size, prompt)
    own = range(len(shared), (prompt + output) // config.block_size)
    return [*shared, *[b"%d:%d" % (row.index, block) for block in own]]


def _trace_rows(wanted: TraceConfig, rng: Random) -> list[TraceRow]:
    rows = cut(read_trace(find_trace(wanted.file), rng), wanted.start_s, wanted.end_s)
    rows = sorted(_copies(rows, wanted.copies, rng), key=lambda row: row.at_s)
    return scale_to_rate(rows, wanted.rate_rps) if wanted.rate_rps else rows


def _copies(rows: list[TraceRow], copies: int, rng: Random) -> list[TraceRow]:
    span_s = rows[-1].at_s or 1.0 if rows else 0.0
    apart = 1 + max((max(row.block_ids, default=0) for row in rows), default=0)
    out = list(rows)
    for copy in range(1, copies):
        shift_s = rng.random() * span_s
        out += [
            replace(row, at_s=(row.at_s + shift_s) % span_s, block_ids=tuple([i + copy * apart for i in row.block_ids]))
            for row in rows
        ]
    return out


def _synthetic_rows(wanted: SyntheticConfig, rng: Random) -> list[TraceRow]:
    times_s = arrival_times(parse_arrival(wanted.arrival), wanted.rate_rps, wanted.requests, rng)
    times_s = with_tide(times_s, wanted.tide, wanted.tide_s)
    inputs = _length(wanted.input_tokens, wanted.input_sigma, wanted.max_input_tokens)
    return synthetic_rows(
        times_s, inputs, _length(wanted.output_tokens, wanted.output_sigma, wanted.max_output_tokens), rng
    )


def _length(mean_tokens: int, sigma: float, cap_tokens: int) -> Length:
    return LogNormalLength(mean_tokens, sigma, cap_tokens) if sigma else FixedLength(mean_tokens)


__all__ = ["build_workload"]
