"""From records to the result of a run. Pure but for `read_result`.

The keys are those of `vllm bench serve`'s result file (milliseconds where they say so; throughput per second of
`duration`), with these meant alike: a request that failed counts only in `failed`; ITL is the gap between two chunks;
TPOT is per token after the first. Ours besides: errors_by_kind, hung_up, not_sent, lateness_ms_*, cached_tokens,
retries, instances, slo, interrupted, timed_out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from shoal.bench import stats
from shoal.bench.record import End, Record
from shoal.proto.errors import InvalidArgument

GOODPUT_NAMES = ("ttft", "tpot", "e2el")
PERCENTILES = (50.0, 90.0, 95.0, 99.0)


@dataclass(frozen=True, slots=True)
class Slo:
    """TTFT at most base + 2 x the uncached prompt's own prefill; TPOT at most 3 x a lone request's decode step."""

    prefill_ms_per_token: float
    decode_step_ms: float
    ttft_base_ms: float = 500.0

    def ttft_limit_ms(self, uncached_tokens: int) -> float:
        return self.ttft_base_ms + 2 * self.prefill_ms_per_token * uncached_tokens

    def met(self, record: Record) -> bool:
        uncached = max(0, _input_tokens(record) - record.cached_tokens)
        in_time = record.ttft_s * 1e3 <= self.ttft_limit_ms(uncached)
        return in_time and (record.tpot_s or 0.0) * 1e3 <= 3 * self.decode_step_ms


def parse_goodput(pairs: Sequence[str]) -> dict[str, float]:
    """`ttft:200 tpot:50`, milliseconds, as `vllm bench serve --goodput` takes them."""
    limits = {}
    for pair in pairs:
        name, _, value = pair.partition(":")
        try:
            limits[name] = float(value)
        except ValueError:
            limits[name] = -1.0
        if name not in GOODPUT_NAMES or limits[name] < 0:
            raise InvalidArgument(
                "goodput", limit=f"KEY:MILLISECONDS with KEY one of {', '.join(GOODPUT_NAMES)}", given=pair
            )
    return limits


def summarize(
    records: Sequence[Record],
    *,
    duration_s: float,
    percentiles: Sequence[float] = PERCENTILES,
    goodput: Mapping[str, float] | None = None,
    slo: Slo | None = None,
    planned: int | None = None,
) -> dict[str, Any]:
    done = [record for record in records if record.end is End.COMPLETED]
    failed = [record for record in records if record.end is End.FAILED]
    hung_up = sum(record.end is End.HUNG_UP for record in records)
    per_s = 1 / duration_s if duration_s > 0 else 0.0
    tokens_in = sum(_input_tokens(record) for record in done)
    tokens_out = sum(record.output_tokens for record in done)
    return {
        "duration": duration_s,
        "completed": len(done),
        "failed": len(failed),
        "hung_up": hung_up,
        "not_sent": (len(records) if planned is None else planned) - len(records),
        "total_input_tokens": tokens_in,
        "total_output_tokens": tokens_out,
        "cached_tokens": sum(record.cached_tokens for record in done),
        "request_throughput": len(done) * per_s,
        "request_goodput": sum(_good(record, goodput) for record in done) * per_s if goodput else None,
        "output_throughput": tokens_out * per_s,
        "total_token_throughput": (tokens_in + tokens_out) * per_s,
        **_latencies(done, percentiles),
        **_peaks(done),
        "rtfx": 0.0,
        "errors_by_kind": dict(sorted(Counter(record.error_kind for record in failed).items())),
        "error_examples": _examples(failed),
        "retries": sum(record.retries for record in records),
        "instances": dict(sorted(Counter(record.instance for record in done if record.instance).items())),
        **_lateness(records),
        "slo": _slo(done, slo, len(records) - hung_up, per_s),
    }


def detail(records: Sequence[Record]) -> dict[str, list[Any]]:
    """The per-request arrays of `vllm bench serve --save-detailed`; seconds."""
    return {
        "input_lens": [_input_tokens(record) for record in records],
        "output_lens": [record.output_tokens if record.end is End.COMPLETED else 0 for record in records],
        "ttfts": [record.ttft_s for record in records],
        "itls": [record.gaps_s for record in records],
        "latencies": [record.latency_s for record in records],
        "start_times": [record.sent_s for record in records],
        "queue_times": [record.lateness_s for record in records],
        "generated_texts": ["".join(record.text) for record in records],
        "errors": [record.error_text for record in records],
    }


def _input_tokens(record: Record) -> int:
    return record.prompt_tokens or record.request.input_tokens


def _good(record: Record, limits_ms: Mapping[str, float]) -> bool:
    seen_s = {"ttft": record.ttft_s, "tpot": record.tpot_s or 0.0, "e2el": record.latency_s}
    return all(seen_s[name] * 1e3 <= limit_ms for name, limit_ms in limits_ms.items())


def _latencies(done: Sequence[Record], percentiles: Sequence[float]) -> dict[str, float]:
    series_s = {
        "ttft": [record.ttft_s for record in done],
        "tpot": [tpot for record in done if (tpot := record.tpot_s) is not None],
        "itl": [gap for record in done for gap in record.gaps_s],
        "e2el": [record.latency_s for record in done],
    }
    return {
        key: value for name, values in series_s.items() for key, value in _spread_ms(name, values, percentiles).items()
    }


def _spread_ms(name: str, values_s: Sequence[float], percentiles: Sequence[float]) -> dict[str, float]:
    return {
        f"mean_{name}_ms": stats.mean(values_s) * 1e3,
        f"median_{name}_ms": stats.median(values_s) * 1e3,
        f"std_{name}_ms": stats.deviation(values_s) * 1e3,
        **{f"p{percent:g}_{name}_ms": stats.percentile(values_s, percent) * 1e3 for percent in percentiles},
    }


def _peaks(done: Sequence[Record]) -> dict[str, float]:
    """Highest output tokens, and requests under way, within one second of the run."""
    if not done:
        return {"max_output_tokens_per_s": 0.0, "max_concurrent_requests": 0}
    first_s = min(record.sent_s for record in done)
    tokens: Counter[int] = Counter()
    under_way: Counter[int] = Counter()
    for record in done:
        for at_s, count in zip(record.chunk_s, record.chunk_tokens, strict=True):
            tokens[int(at_s - first_s)] += count
        under_way.update(range(int(record.sent_s - first_s), int(record.finished_s - first_s) + 1))
    return {"max_output_tokens_per_s": float(max(tokens.values())), "max_concurrent_requests": max(under_way.values())}


def _examples(failed: Sequence[Record]) -> dict[str, str]:
    examples: dict[str, str] = {}
    for record in failed:
        examples.setdefault(record.error_kind, record.error_text)
    return examples


def _lateness(records: Sequence[Record]) -> dict[str, float]:
    late_ms = [record.lateness_s * 1e3 for record in records]
    return {"lateness_ms_max": max(late_ms, default=0.0), "lateness_ms_p99": stats.percentile(late_ms, 99)}


def _slo(done: Sequence[Record], slo: Slo | None, asked: int, per_s: float) -> dict[str, float] | None:
    """A request that failed has missed it; one whose client left has no say."""
    if slo is None:
        return None
    met = sum(slo.met(record) for record in done)
    return {
        "ttft_base_ms": slo.ttft_base_ms,
        "prefill_ms_per_token": slo.prefill_ms_per_token,
        "decode_step_ms": slo.decode_step_ms,
        "met_share": met / asked if asked else 0.0,
        "goodput": met * per_s,
    }


def read_result(path: Path) -> dict[str, Any]:
    """Of `vllm bench serve --save-result`, or of --save. Raises InvalidArgument."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError) as exc:
        raise InvalidArgument("baseline", limit="a file with a result of vllm bench serve", given=str(exc)) from None
    if "request_throughput" not in found:
        raise InvalidArgument("baseline", limit="a result with request_throughput in it", given=sorted(found)[:8])
    return found


def over_baseline(result: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, float]:
    """Ratios of all numbers that both have: throughputs and latencies. Pure."""
    words = ("_throughput", "_goodput", "_ms", "duration", "completed", "failed")
    numbers = {
        name: value for name, value in baseline.items() if name.endswith(words) and isinstance(value, int | float)
    }
    return {n: result[n] / v for n, v in numbers.items() if v and isinstance(result.get(n), int | float)}


__all__ = [
    "GOODPUT_NAMES",
    "PERCENTILES",
    "Slo",
    "detail",
    "over_baseline",
    "parse_goodput",
    "read_result",
    "summarize",
]
