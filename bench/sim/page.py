"""A simulation on one page: what was asked for, the numbers, and how they went over time. Self-contained HTML; the
pictures are inside it. Needs matplotlib."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from shoal.bench.report import panels
from shoal.bench.sim.results import Results, Slo
from shoal.bench.sim.sampler import Sampler

BINS = 120

PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>$title</title><style>
body { font: 14px/1.4 system-ui, sans-serif; max-width: 1200px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; display: inline-table; margin: 0 2em 1em 0; vertical-align: top }
td { padding: 2px 10px; border-bottom: 1px solid #ddd }
td + td { text-align: right; font-variant-numeric: tabular-nums }
img { width: 100% }
</style></head><body><h1>$title</h1><img alt="plots over time" src="data:image/png;base64,$picture">
<h2>Numbers</h2>$numbers<h2>Configuration</h2>$config</body></html>
""")


def write_page(
    path: Path,
    *,
    title: str,
    config: Mapping[str, Any],
    summary: Mapping[str, Any],
    results: Results,
    slo: Slo,
    sampler: Sampler,
) -> None:
    page = PAGE.substitute(
        title=html.escape(title),
        picture=_picture(results, slo, sampler),
        numbers=_table(summary),
        config=_table(_flat(config)),
    )
    path.write_text(page, encoding="utf-8")


def _picture(results: Results, slo: Slo, sampler: Sampler) -> str:
    figure, axes = panels(3, 2)
    ((ttft, tpot), (goodput, spread), (moves, hits)) = axes
    edges = np.linspace(0, max(results.ended_s, 1e-9), BINS + 1)
    arrived, ended = (np.digitize(results.column(name), edges) - 1 for name in ("arrival_s", "last_s"))
    tpot_s = results.tpot_s
    lasting = ~np.isnan(tpot_s)
    _percentiles(ttft, edges, arrived, results.ttft_s * 1e3, "TTFT by arrival, ms")
    _percentiles(tpot, edges, arrived[lasting], tpot_s[lasting] * 1e3, "TPOT by arrival, ms")
    width_s = edges[1] - edges[0]
    for label, chosen in (("all", ended), ("within the SLO", ended[slo.met(results)])):
        goodput.step(edges[:-1], np.bincount(chosen, minlength=BINS)[:BINS] / width_s, label=label)
    goodput.set(title="requests ended per second")
    at_s = [sample.at_s for sample in sampler.samples]
    spread.plot(at_s, [sample.max_requests for sample in sampler.samples], label="fullest instance")
    spread.plot(at_s, [sample.mean_requests for sample in sampler.samples], label="mean")
    spread.set(title="requests on an instance")
    moves.plot(at_s, [sample.max_kv_use for sample in sampler.samples], label="KV use, fullest instance")
    moves.plot(at_s, [sample.mean_kv_use for sample in sampler.samples], label="KV use, mean")
    moved = moves.twinx()
    moved.step(edges[:-1], np.histogram(results.moved_s, edges)[0] / width_s, color="tab:red", label="moves per second")
    moved.legend(loc="upper right")
    moved.set(ylim=(0, None))
    moves.set(title="KV use and moves")
    cached, prompts = (
        np.bincount(arrived, results.column(name), BINS)[:BINS] for name in ("cached_tokens", "prompt_tokens")
    )
    hits.plot(
        edges[:-1], np.where(prompts > 0, cached / np.maximum(prompts, 1), np.nan), label="share of prompt tokens"
    )
    hits.set(title="found in the prefix cache, by arrival", ylim=(0, 1))
    for axis in axes.flat:
        axis.set_xlabel("s")
        axis.legend(loc="upper left")
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=90)
    return base64.b64encode(png.getvalue()).decode()


def _percentiles(axis: Any, edges: Any, bins: Any, values: Any, title: str) -> None:
    order = np.argsort(bins, kind="stable")
    groups = np.split(values[order], np.searchsorted(bins[order], np.arange(1, BINS)))
    for percent in (50, 99):
        line = [np.percentile(group, percent) if len(group) else np.nan for group in groups]
        axis.plot(edges[:-1], line, label=f"p{percent}")
    axis.set(title=title, ylim=(0, None))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def _table(values: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr><td>{html.escape(key)}<td>{html.escape(_shown(value))}" for key, value in values.items())
    return f"<table>{rows}</table>"


def _shown(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


__all__ = ["write_page"]
