"""`shoal router weights | shadow | canary | rollback | withdraw`: one act of the controller each, and how every
frontend does with what is wanted.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path

from shoal.cluster.cli.status import PATIENCE_S, connect
from shoal.cluster.controller_client import ControllerClient
from shoal.proto.errors import InvalidArgument, Unavailable
from shoal.proto.v1 import controller_pb2 as pb
from shoal.router.profile import shipped_weights
from shoal.router.weights import RouterWeights, read_weights, write_weights


def router(arguments: argparse.Namespace) -> int:
    if arguments.way == "weights" and arguments.file:
        print("\n".join(weights_lines(read_weights(_read(arguments.file)))))
        return 0
    with connect(arguments.name) as client:
        match arguments.way:
            case "weights":
                print(wanted_line(client.router("show")))
                for line in _frontend_lines(client):
                    print(line)
            case "shadow":
                raw = _read(arguments.file) if arguments.file else write_weights(shipped_weights())
                print(wanted_line(client.router("shadow", weights=raw)))
            case "canary":
                print(wanted_line(client.router("canary", share=arguments.share)))
            case act:
                print(wanted_line(client.router(act)))
    return 0


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise InvalidArgument("file", limit="a weights file", given=f"{path}: {exc.strerror}") from None


def weights_lines(weights: RouterWeights) -> Iterator[str]:
    came = weights.provenance
    yield f"version {weights.version}: seed {came.seed}, {came.episodes} episodes, {came.note or 'no note'}"
    yield from (f"  data   {one}" for one in came.data)
    yield from (f"  factor {name:<16} {factor:>10.4g}" for name, factor in weights.terms.items())
    yield from (f"  residual {name:<14} {one:>10.4g}" for name, one in weights.residual.items())
    for workload, scores in came.scores.items():
        yield f"  score  {workload}: {', '.join(f'{policy} {score:.4g}' for policy, score in scores.items())}"


def wanted_line(wanted: pb.RouterWanted) -> str:
    what = f" {wanted.version}" if wanted.version else ""
    return f"wanted: {wanted.stage}{what}{f', {wanted.why}' if wanted.why else ''}"


def _frontend_lines(client: ControllerClient) -> Iterator[str]:
    for frontend in client.status(patience_s=PATIENCE_S).frontends:
        with contextlib.suppress(Unavailable):  # it is going
            yield report_line(frontend.id, client.router_report(frontend))


def report_line(frontend: str, report: pb.RouterReport) -> str:
    counts = ", ".join(f"{name} {number:g}" for name, number in sorted(report.counts.items()))
    notes = [note for note in (report.why, report.holding and f"held: {report.holding}", report.refused) if note]
    return "  ".join([f"  {frontend}: {report.stage} {report.version}".rstrip(), *notes, counts])


__all__ = ["report_line", "router", "wanted_line", "weights_lines"]
