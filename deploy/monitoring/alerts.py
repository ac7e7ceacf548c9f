"""When somebody should look: data only. Each alert has a section of its name in docs/runbooks.md."""

from __future__ import annotations

from typing import NamedTuple


class Alert(NamedTuple):
    """Fires while `expression` compares with `limit` so for `lasting`."""

    name: str
    expression: str
    limit: str
    lasting: str
    severity: str
    summary: str

    @property
    def rule(self) -> str:
        return f"{self.expression} {self.limit}"


READY = 'sum by (model_name) (shoal_controller_instances{state="ready"})'
FAILED = 'shoal_frontend_requests_total{outcome=~"error|unavailable|expired|overloaded|quarantined"}'

ALERTS = (
    Alert("ShoalNoInstance", READY, "< 1", "30s", "critical", "No instance is ready: requests wait, then fail."),
    Alert(
        "ShoalInstancesMissing",
        f"{READY} / sum by (model_name) (shoal_controller_instances)",
        "< 1",
        "15m",
        "warning",
        "Not every instance is ready.",
    ),
    Alert(
        "ShoalInstanceRestarts",
        "increase(shoal_controller_starts_total[30m])",
        "> 3",
        "0m",
        "warning",
        "Instance {{ $labels.engine }} was started again and again.",
    ),
    Alert(
        "ShoalQuarantined",
        'sum by (model_name) (shoal_controller_instances{state="quarantined"})',
        "> 0",
        "1m",
        "warning",
        "It died too often and waits for a person.",
    ),
    Alert(
        "ShoalHeartbeatOld",
        "max by (engine) (shoal_controller_heartbeat_age_seconds)",
        "> 1.5",
        "1m",
        "warning",
        "Instance {{ $labels.engine }} is silent.",
    ),
    Alert(
        "ShoalViewOld",
        "max by (engine) (shoal_frontend_view_age_seconds)",
        "> 1.5",
        "1m",
        "warning",
        "A frontend hears nothing from instance {{ $labels.engine }}.",
    ),
    Alert(
        "ShoalSloMissed",
        'sum by (model_name) (rate(shoal_slo_requests_total{result="met"}[10m]))'
        " / sum by (model_name) (rate(shoal_slo_requests_total[10m]))",
        "< 0.95",
        "10m",
        "warning",
        "Fewer than 95 % of requests are within the SLO.",
    ),
    Alert(
        "ShoalRequestsFail",
        f"sum by (model_name) (rate({FAILED}[5m])) / sum by (model_name) (rate(shoal_frontend_requests_total[5m]))",
        "> 0.01",
        "5m",
        "critical",
        "More than 1 % of requests fail for no fault of theirs.",
    ),
    Alert(
        "ShoalQueueLong",
        "histogram_quantile(0.95, sum by (le, model_name) (rate(shoal_frontend_queue_seconds_bucket[5m])))",
        "> 5",
        "5m",
        "warning",
        "Requests wait long for a place.",
    ),
    Alert(
        "ShoalKvCacheFull",
        "avg by (model_name) (vllm:kv_cache_usage_perc)",
        "> 0.95",
        "10m",
        "warning",
        "Running requests hold nearly all KV blocks.",
    ),
)
