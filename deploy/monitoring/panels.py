"""What the dashboards show: data only. `M` picks the model, `R` is Grafana's rate window; see generate.py.

Every expression here must give data that moves on a live cluster; tests/e2e/test_dashboards.py asks a real Prometheus.
"""

from __future__ import annotations

from typing import NamedTuple


class Query(NamedTuple):
    expression: str
    legend: str


class Panel(NamedTuple):
    title: str
    unit: str  # as Grafana names it
    meaning: str
    queries: tuple[Query, ...]


class Page(NamedTuple):
    title: str
    panels: tuple[Panel, ...]


def rate_by(metric: str, *labels: str) -> Query:
    legend = " ".join(f"{{{{{label}}}}}" for label in labels)
    by = f" by ({', '.join(labels)})" if labels else ""
    return Query(f"sum{by} (rate({metric}{{M}}[R]))", legend or "all")


def share(part: str, whole: str, legend: str) -> Query:
    return Query(f"sum(rate({part}{{M}}[R])) / sum(rate({whole}{{M}}[R]))", legend)


def quantiles(histogram: str, *levels: float, by: str = "") -> tuple[Query, ...]:
    labels = f"le, {by}" if by else "le"
    tail = f" {{{{{by}}}}}" if by else ""
    return tuple(
        Query(
            f"histogram_quantile({level}, sum by ({labels}) (rate({histogram}_bucket{{M}}[R])))",
            f"p{level * 100:g}{tail}",
        )
        for level in levels
    )


def each(metric: str) -> tuple[Query, ...]:
    return (Query(f"{metric}{{M}}", "{{engine}}"),)


ATTAINED = 'sum(rate(shoal_slo_requests_total{result="met", M}[R])) / sum(rate(shoal_slo_requests_total{M}[R]))'

OVERVIEW = Page(
    "Overview",
    (
        Panel(
            "Requests", "reqps", "Ended requests by outcome.", (rate_by("shoal_frontend_requests_total", "outcome"),)
        ),
        Panel(
            "Tokens",
            "short",
            "Per second.",
            (
                Query("sum(rate(vllm:prompt_tokens_total{M}[R]))", "prompt"),
                Query("sum(rate(vllm:generation_tokens_total{M}[R]))", "output"),
            ),
        ),
        Panel("Time to first token", "s", "", quantiles("vllm:time_to_first_token_seconds", 0.5, 0.95, 0.99)),
        Panel("Time per output token", "s", "", quantiles("vllm:request_time_per_output_token_seconds", 0.5, 0.95)),
        Panel("Whole request", "s", "", quantiles("vllm:e2e_request_latency_seconds", 0.5, 0.95, 0.99)),
        Panel("Within the SLO", "percentunit", "Share of served requests.", (Query(ATTAINED, "met"),)),
        Panel(
            "Requests here",
            "short",
            "In an engine's batch, in its queue, and open at the frontends.",
            (
                Query("sum(vllm:num_requests_running{M})", "running"),
                Query("sum(shoal_frontend_open_requests{M})", "open"),
            ),
        ),
        Panel(
            "KV cache in use",
            "percentunit",
            "Blocks that running requests hold.",
            (Query("avg(vllm:kv_cache_usage_perc{M})", "mean"), Query("max(vllm:kv_cache_usage_perc{M})", "fullest")),
        ),
        Panel(
            "Instances", "short", "By state.", (Query("sum by (state) (shoal_controller_instances{M})", "{{state}}"),)
        ),
    ),
)

INSTANCES = Page(
    "Instances",
    (
        Panel("Running", "short", "Requests in the batch.", each("vllm:num_requests_running")),
        Panel("KV cache in use", "percentunit", "", each("vllm:kv_cache_usage_perc")),
        Panel("Free blocks", "short", "Free or evictable.", each("shoal_instance_free_blocks")),
        Panel(
            "Step time",
            "s",
            "How long one engine step takes.",
            quantiles("shoal_instance_step_duration_seconds", 0.5, 0.99, by="engine"),
        ),
        Panel("Steps", "ops", "", (rate_by("shoal_instance_steps_total", "engine"),)),
        Panel(
            "Blocks stored or removed",
            "ops",
            "Changes of the prefix cache.",
            (rate_by("shoal_instance_block_changes_total", "engine"),),
        ),
        Panel("Requests held", "short", "For any frontend, kept ones included.", each("shoal_instance_held_requests")),
        Panel(
            "Heartbeat",
            "s",
            "Age of the last one, as the controller sees it. Fenced at 1.5 s.",
            each("shoal_controller_heartbeat_age_seconds"),
        ),
        Panel("Starts", "short", "Processes started for each slot.", each("shoal_controller_starts_total")),
    ),
)

ROUTER = Page(
    "Router",
    (
        Panel("Placements", "reqps", "Where requests go.", (rate_by("shoal_router_placements_total", "engine"),)),
        Panel("Decision", "s", "How long one placement takes.", quantiles("shoal_router_decision_seconds", 0.5, 0.99)),
        Panel("Queue", "s", "From arrival to a place.", quantiles("shoal_frontend_queue_seconds", 0.5, 0.95, 0.99)),
        Panel(
            "Waiting for a first token",
            "short",
            "Their prompt tokens, as admission counts them.",
            (Query("sum by (frontend) (shoal_frontend_admitted_tokens{M})", "{{frontend}}"),),
        ),
        Panel(
            "Prefix hits",
            "percentunit",
            "Share of prompt tokens: as the router expected, and as engines found them.",
            (
                share("shoal_router_matched_tokens_total", "shoal_router_prompt_tokens_total", "expected"),
                share("vllm:prompt_tokens_cached_total", "vllm:prompt_tokens_total", "found"),
            ),
        ),
        Panel(
            "Prompt tokens by source",
            "short",
            "Per second.",
            (rate_by("vllm:prompt_tokens_by_source_total", "source"),),
        ),
        Panel(
            "Age of the view",
            "s",
            "Since the last report of each instance; the oldest over the frontends.",
            (Query("max by (engine) (shoal_frontend_view_age_seconds{M})", "{{engine}}"),),
        ),
        Panel("Outputs", "ops", "As the journal judged them.", (rate_by("shoal_frontend_outputs_total", "verdict"),)),
        Panel(
            "Failovers",
            "short",
            "Requests moved off a lost instance, and streams that ended, by sign.",
            (
                Query("sum(shoal_frontend_failovers_total{M})", "requests moved"),
                Query("sum by (why) (shoal_frontend_link_ends_total{M})", "{{why}}"),
            ),
        ),
        Panel(
            "Links",
            "short",
            "Instances that a frontend can reach.",
            (Query("shoal_frontend_linked_instances{M}", "{{frontend}}"),),
        ),
    ),
)

TENANTS = Page(
    "Tenants and SLO",
    (
        Panel(
            "Within the SLO, by tenant",
            "percentunit",
            "",
            (
                Query(
                    'sum by (tenant) (rate(shoal_slo_requests_total{result="met", M}[R]))'
                    " / sum by (tenant) (rate(shoal_slo_requests_total{M}[R]))",
                    "{{tenant}}",
                ),
            ),
        ),
        Panel(
            "Within the SLO, by class",
            "percentunit",
            "Class = the request's priority: high, normal, low.",
            (
                Query(
                    'sum by (class) (rate(shoal_slo_requests_total{result="met", M}[R]))'
                    " / sum by (class) (rate(shoal_slo_requests_total{M}[R]))",
                    "{{class}}",
                ),
            ),
        ),
        Panel(
            "Results",
            "reqps",
            "Met, or which promise was broken: time to first token, time per output token.",
            (rate_by("shoal_slo_requests_total", "result"),),
        ),
        Panel("Output tokens", "short", "Per second.", (rate_by("shoal_frontend_tokens_total", "tenant"),)),
        Panel("Output tokens by outcome", "short", "", (rate_by("shoal_frontend_tokens_total", "outcome"),)),
        Panel("Served requests", "reqps", "", (rate_by("shoal_slo_requests_total", "tenant", "class"),)),
        Panel("Length of prompts", "short", "Tokens.", quantiles("vllm:request_prompt_tokens", 0.5, 0.95)),
        Panel("Length of answers", "short", "Tokens.", quantiles("vllm:request_generation_tokens", 0.5, 0.95)),
    ),
)

MIGRATION = Page(
    "Migration",
    (
        Panel("Moves", "ops", "Ended moves by why and how.", (rate_by("shoal_migrations_total", "reason", "outcome"),)),
        Panel(
            "Under way",
            "short",
            "Out of and into instances.",
            (Query("sum by (side) (shoal_migrations_under_way{M})", "{{side}}"),),
        ),
        Panel(
            "Pause",
            "s",
            "Gap between two tokens that a client saw.",
            quantiles("shoal_migration_pause_seconds", 0.5, 0.99),
        ),
        Panel("Bytes sent", "Bps", "KV blocks, by source.", (rate_by("shoal_migration_bytes_total", "engine"),)),
        Panel("Rounds of copying", "ops", "", (rate_by("shoal_migration_stages_total", "engine"),)),
        Panel(
            "Verdicts",
            "ops",
            "Of the frontends that own the requests.",
            (rate_by("shoal_frontend_handovers_total", "reason", "verdict"),),
        ),
    ),
)

# A pool node's page has no model: its blocks may be of several.
POOL = Page(
    "Pool",
    (
        Panel(
            "In use",
            "percentunit",
            "Share of the slots, by tier.",
            (
                Query(
                    "1 - sum by (tier) (shoal_pool_free_blocks) / sum by (tier) (shoal_pool_total_blocks)", "{{tier}}"
                ),
            ),
        ),
        Panel(
            "Blocks",
            "short",
            "Leased, or used again (hot).",
            (Query("sum by (state) (shoal_pool_blocks)", "{{state}}"),),
        ),
        Panel(
            "Events",
            "ops",
            "Blocks stored, leased, refused, evicted, expired, damaged.",
            (Query("sum by (event) (rate(shoal_pool_block_events_total[R]))", "{{event}}"),),
        ),
        Panel(
            "Largest tenant",
            "short",
            "Blocks of the tenant with most of them.",
            (Query("max(shoal_pool_largest_tenant_blocks)", "blocks"),),
        ),
    ),
)

PAGES = {
    "overview": OVERVIEW,
    "instances": INSTANCES,
    "router": ROUTER,
    "migration": MIGRATION,
    "pool": POOL,
    "tenants-slo": TENANTS,
}
