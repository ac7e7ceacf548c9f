"""Pictures of a run. matplotlib is optional and imported only when a picture is asked for; it draws to files, never
to a screen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shoal.bench.record import End, Record
from shoal.proto.errors import Unavailable


def plot_load(records: Sequence[Record], result: Mapping[str, Any], path: Path) -> None:
    """TTFT over time, output tokens per second, and the distributions of TTFT and TPOT. Raises Unavailable."""
    figure, ((first, flow), (ttft, tpot)) = panels(2, 2)
    done = [record for record in records if record.end is End.COMPLETED]
    start_s = min((record.due_s for record in records), default=0.0)
    first.plot(
        [record.sent_s - start_s for record in done], [record.ttft_s * 1e3 for record in done], ".", markersize=3
    )
    first.set(title="time to first token", xlabel="sent at, s", ylabel="ms")
    seconds = _tokens_per_second(done, start_s)
    flow.step([second for second, _ in seconds], [tokens for _, tokens in seconds], where="post")
    flow.set(title="output tokens per second", xlabel="s", ylabel="tokens/s")
    _distribution(ttft, [record.ttft_s * 1e3 for record in done], "TTFT, ms")
    _distribution(tpot, [value * 1e3 for record in done if (value := record.tpot_s) is not None], "TPOT, ms")
    figure.suptitle(
        f"{result['completed']} completed, {result['failed']} failed, {result['request_throughput']:.2f} requests/s, "
        f"{result['output_throughput']:.0f} output tokens/s"
    )
    figure.savefig(path, dpi=120)


def plot_bars(rows: Sequence[Mapping[str, Any]], value: str, path: Path) -> None:
    """One group of bars per fleet and share, one bar per policy, on a logarithmic scale. Raises Unavailable."""
    figure, axes = panels(1, 1)
    groups = list(dict.fromkeys((row["fleet"], row["share"]) for row in rows))
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    for number, policy in enumerate(policies):
        mine = [row for row in rows if row["policy"] == policy]
        at = [groups.index((row["fleet"], row["share"])) + 0.8 * number / len(policies) for row in mine]
        axes.bar(at, [row[value] for row in mine], width=0.7 / len(policies), label=policy)
    axes.set_xticks(range(len(groups)), [f"{fleet} at {share:.0%}" for fleet, share in groups])
    axes.set(yscale="log", ylabel=value)
    axes.legend()
    figure.savefig(path, dpi=120)


def plot_pool(cells: Sequence[Mapping[str, Any]], path: Path) -> None:
    """GiB/s over block size: each transport with and without checksums, and memcpy beside it. Raises Unavailable."""
    figure, ((speed, share), (lease, calls)) = panels(2, 2)
    for name in sorted({one["path"] for one in cells}):
        mine = sorted((one for one in cells if one["path"] == name), key=lambda one: one["bytes"])
        kib = [one["bytes"] / 1024 for one in mine]
        speed.plot(kib, [one["gib_per_s"] for one in mine], "o-", label=name)
        speed.plot(kib, [one["verified_gib_per_s"] for one in mine], "o--", label=f"{name}, verified")
        share.plot(kib, [one["ratio_to_memcpy"] for one in mine], "o-", label=name)
        share.plot(kib, [one["ratio_verified"] for one in mine], "o--", label=f"{name}, verified")
        lease.plot(kib, [one["lease_ms"] for one in mine], "o-", label=name)
        calls.plot(kib, [one["memcpy_gib_per_s"] for one in mine], "o-", label=f"memcpy beside {name}")
    for axes, title in (
        (speed, "GiB/s"),
        (share, "ratio to memcpy"),
        (lease, "lease and release, ms"),
        (calls, "memcpy, GiB/s"),
    ):
        axes.set(title=title, xlabel="block, KiB", xscale="log", ylim=(0, None))
        axes.legend()
    figure.savefig(path, dpi=120)


def panels(rows: int, columns: int) -> tuple[Any, Any]:
    """A figure and its axes. Raises Unavailable."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - optional and heavy
        from matplotlib.figure import Figure  # noqa: PLC0415 - optional and heavy
    except ImportError:
        raise Unavailable("plots need matplotlib: install the `bench` extra") from None
    figure = Figure(figsize=(6 * columns, 4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns)


def _tokens_per_second(done: Sequence[Record], start_s: float) -> list[tuple[int, int]]:
    seconds: Counter[int] = Counter()
    for record in done:
        for at_s, tokens in zip(record.chunk_s, record.chunk_tokens, strict=True):
            seconds[int(at_s - start_s)] += tokens
    return [(second, seconds[second]) for second in range(max(seconds, default=-1) + 1)]


def _distribution(axes: Any, values: Sequence[float], label: str) -> None:
    ordered = sorted(values)
    axes.plot(ordered, [(rank + 1) / len(ordered) for rank in range(len(ordered))])
    axes.set(title=label, xlabel="ms", ylabel="share of requests", ylim=(0, 1.02))


__all__ = ["panels", "plot_bars", "plot_load", "plot_pool"]
