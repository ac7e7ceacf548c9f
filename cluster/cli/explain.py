"""`shoal explain REQUEST`: where it was placed, why, and every move of it. Frontends know the stays, the controller the
moves that failed.
"""

from __future__ import annotations

import argparse
import contextlib
from itertools import groupby

from shoal.cluster.cli.acts import MOVED, move_line
from shoal.cluster.cli.status import PATIENCE_S, connect
from shoal.proto.errors import NotFound, Unavailable
from shoal.proto.v1 import controller_pb2 as pb


def explain(arguments: argparse.Namespace) -> int:
    with connect(arguments.name) as client:
        stories: list[pb.RequestStory] = []
        for frontend in client.status(patience_s=PATIENCE_S).frontends:
            with contextlib.suppress(Unavailable):  # it is going, and what it knew with it
                stories += client.story(frontend, arguments.request)
        moves = client.moves(arguments.request)
    if not stories and not moves:
        raise NotFound(f"request {arguments.request}: no frontend remembers it")
    print("\n\n".join(as_text(story) for story in stories))
    for move in moves:
        if move.outcome not in MOVED or not stories:
            print(f"  {move_line(move)}")
    return 0


def as_text(story: pb.RequestStory) -> str:
    return "\n".join([story.request_id, *(line for stay in story.stays for line in _stay_lines(stay))])


def _stay_lines(stay: pb.Stay) -> list[str]:
    head = f"  {stay.instance}  epoch {stay.epoch}, {stay.age_s:.1f} s ago, {stay.why}"
    if not stay.terms:
        pause = f"pause {stay.pause_s * 1e3:.0f} ms" if stay.pause_s else "pause not over"
        return [f"{head}: {stay.sent_bytes / 1e6:.2f} MB in {stay.stages} stages, {pause}"]
    cached = f", {stay.cached_tokens} tokens cached there" if stay.cached_tokens else ""
    by = f", by {stay.policy}" if stay.policy else ""
    held = f" ({stay.rail})" if stay.rail else ""
    return [f"{head}{by}{held}{cached}", *(_candidate_line(name, list(rows)) for name, rows in _by_candidate(stay))]


def _by_candidate(stay: pb.Stay) -> groupby[str, pb.Reason]:
    return groupby(stay.terms, key=lambda term: term.candidate)


def _candidate_line(name: str, terms: list[pb.Reason]) -> str:
    total = sum(term.raw * term.weight for term in terms)
    parts = " + ".join(f"{term.weight:g} x {term.scorer} {term.raw:.6g}" for term in terms)
    return f"    {name:<8} {total:>12.6g} = {parts}"


__all__ = ["as_text", "explain"]
