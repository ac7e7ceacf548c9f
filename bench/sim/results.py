"""What became of every request, as columns. Owns the columns; a request is written once, when it ends."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal.bench import stats
from shoal.bench.sim.request import End, SimRequest
from shoal.instance.step_time import StepTime, StepWork

FIELDS = {
    "arrival_s": "d",
    "placed_s": "d",
    "first_s": "d",
    "last_s": "d",
    "prompt_tokens": "q",
    "output_tokens": "q",
    "cached_tokens": "q",
    "preemptions": "q",
    "moves": "q",
}
PERCENTILES = (50, 90, 99)


class Results:
    """Columns of completed requests, and how many ended in another way. `ended_s`: when the last one did;
    `moved_s`: when requests were moved."""

    def __init__(self) -> None:
        self._columns = {name: array(code) for name, code in FIELDS.items()}
        self.kinds: list[str] = []
        self.ids: list[str] = []
        self.ends: Counter[End] = Counter()
        self.ended_s = 0.0
        self.moved_s = array("d")

    def add(self, request: SimRequest, now_s: float) -> None:
        self.ends[request.end] += 1
        self.ended_s = now_s
        if request.end is End.COMPLETED:
            for name, column in self._columns.items():
                column.append(getattr(request, name))
            self.kinds.append(request.kind)
            self.ids.append(request.request_id)

    def column(self, name: str) -> Any:
        return np.frombuffer(self._columns[name], dtype="i8" if FIELDS[name] == "q" else "f8")

    @property
    def ttft_s(self) -> Any:
        return self.column("first_s") - self.column("arrival_s")

    @property
    def latency_s(self) -> Any:
        return self.column("last_s") - self.column("arrival_s")

    @property
    def tpot_s(self) -> Any:
        """From the first token to the last, per later token; NaN where there was only one."""
        later = self.column("output_tokens") - 1
        span_s = self.column("last_s") - self.column("first_s")
        return np.where(later > 0, span_s / np.maximum(later, 1), np.nan)


@dataclass(frozen=True, slots=True)
class Slo:
    """TTFT at most `ttft_base_s` + 2 x the request's uncached prefill alone; TPOT at most 3 x a lone decode step."""

    step_time: StepTime
    ttft_base_s: float = 0.5

    def met(self, results: Results) -> Any:
        cached = results.column("cached_tokens")
        uncached = results.column("prompt_tokens") - cached
        limit_s = self.ttft_base_s + 2e-3 * np.array(
            [self._prefill_ms(u, c) for u, c in zip(uncached, cached, strict=True)]
        )
        decode_ms = self.step_time.step_ms(StepWork(decodes=1))
        return (results.ttft_s <= limit_s) & ~(results.tpot_s > 3e-3 * decode_ms)

    def _prefill_ms(self, tokens: int, context: int) -> float:
        return self.step_time.step_ms(StepWork(int(tokens), float(tokens * context + tokens**2 / 2)))


def summarize(results: Results, slo: Slo) -> dict[str, Any]:
    """Latencies in ms, over completed requests; goodput counts every other one as missed."""
    span_s = max(results.ended_s, 1e-9)
    met = slo.met(results)
    prompt, cached = results.column("prompt_tokens").sum(), results.column("cached_tokens").sum()
    asked = results.ends.total()
    tpot_s = results.tpot_s
    return {
        "requests": asked,
        "ends": {end.value: count for end, count in sorted(results.ends.items(), key=lambda item: item[0].value)},
        "duration_s": span_s,
        "request_throughput": results.ends[End.COMPLETED] / span_s,
        "output_throughput": float(results.column("output_tokens").sum()) / span_s,
        "goodput": float(met.sum()) / span_s,
        "slo_met_share": float(met.sum()) / max(asked, 1),
        **_spread("ttft_ms", results.ttft_s * 1e3),
        **_spread("tpot_ms", tpot_s[~np.isnan(tpot_s)] * 1e3),
        **_spread("e2e_ms", results.latency_s * 1e3),
        "hit_rate": float(cached / max(prompt, 1)),
        "preemptions": int(results.column("preemptions").sum()),
        "moves": int(results.column("moves").sum()),
    }


def _spread(name: str, values: Any) -> dict[str, float]:
    return {
        f"{name}_mean": stats.mean(values),
        **{f"{name}_p{percent}": stats.percentile(values, percent) for percent in PERCENTILES},
    }


__all__ = ["Results", "Slo", "summarize"]
