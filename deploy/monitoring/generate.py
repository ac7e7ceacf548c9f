"""Writes deploy/grafana: dashboards, with Grafana's own foundation SDK, and alert rules. `make deploy` runs it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml
from alerts import ALERTS, Alert
from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DataSourceRef
from panels import PAGES, Page, Panel

FOLDER = Path(__file__).parents[1] / "grafana"
RUNBOOKS = "docs/runbooks.md"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
MODEL = 'model_name=~"$model"'


def spelled(expression: str) -> str:
    """`M` and `R` of panels.py as Grafana reads them."""
    return re.sub(r"\bM\b(?=\})", MODEL, expression).replace("[R]", "[$__rate_interval]")


def panel(one: Panel) -> timeseries.Panel:
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    made = timeseries.Panel().title(one.title).description(one.meaning).unit(one.unit).min(0).datasource(SOURCE)
    made = made.legend(legend).span(8).height(8)
    for number, query in enumerate(one.queries):
        asked = prometheus.Dataquery().expr(spelled(query.expression)).legend_format(query.legend)
        made = made.with_target(asked.ref_id(chr(ord("A") + number)))
    return made


def page(name: str, one: Page) -> str:
    models = dashboard.QueryVariable("model").label("Model").datasource(SOURCE)
    models = models.query("label_values(shoal_frontend_open_requests, model_name)").include_all(True).all_value(".*")
    made = dashboard.Dashboard(f"Shoal: {one.title}").uid(f"shoal-{name}").tags(["shoal"]).refresh("10s")
    made = made.time("now-1h", "now").timezone("browser").readonly()
    made = made.with_variable(dashboard.DatasourceVariable("datasource").type("prometheus").label("Prometheus"))
    made = made.with_variable(models)
    for each in one.panels:
        made = made.with_panel(panel(each))
    return json.dumps(json.loads(json.dumps(made.build(), cls=JSONEncoder)), indent=2, sort_keys=True) + "\n"


def rule(alert: Alert) -> dict[str, Any]:
    runbook = f"{RUNBOOKS}#{alert.name.lower()}"
    return {
        "alert": alert.name,
        "expr": alert.rule,
        "for": alert.lasting,
        "labels": {"severity": alert.severity},
        "annotations": {"summary": alert.summary, "runbook_url": runbook},
    }


def files() -> dict[str, str]:
    """Name in deploy/grafana -> content."""
    groups = {"groups": [{"name": "shoal", "rules": [rule(alert) for alert in ALERTS]}]}
    made = {f"{name}.json": page(name, one) for name, one in PAGES.items()}
    return made | {"alerts.yaml": yaml.safe_dump(groups, sort_keys=False, width=1000)}


if __name__ == "__main__":
    for name, text in files().items():
        (FOLDER / name).write_text(text)
