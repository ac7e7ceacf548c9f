"""What the console's page hears, as JSON of short rows: a picture of the cluster, and this frontend's latest decisions.

Pure. `console.js` reads the same names. No prompt and no token is in it: its sources have none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from google.protobuf.json_format import MessageToDict

from shoal.proto.v1 import controller_pb2 as pb
from shoal.router.contract import Placement

INSTANCE = ("id", "role", "state", "note", "running", "waiting", "free_blocks", "total_blocks", "step_ms", "freeness")
GUEST = ("request_id", "state", "prompt_tokens", "computed_tokens", "output_tokens", "max_new_tokens", "moves")
MOVE = ("move_id", "request_id", "source", "target", "reason", "outcome", "detail", "age_s", "parked_s", "sent_bytes")


def event(name: str, tree: Any) -> bytes:
    """One server-sent event. JSON escapes every line break, so it is one line of data."""
    return f"event: {name}\ndata: {json.dumps(tree, separators=(',', ':'))}\n\n".encode()


def picture_tree(picture: pb.Picture, decisions: Iterable[tuple[str, Placement]]) -> dict[str, Any]:
    guests = {name: list(some) for name, some in groupby(picture.guests, key=lambda one: one.instance)}
    return {
        "act": picture.status.act,
        "frontends": len(picture.status.frontends),
        "instances": [
            {**_fields(one, INSTANCE), "guests": [list(_fields(g, GUEST).values()) for g in guests.get(one.id, ())]}
            for one in picture.status.instances
        ],
        "moves": [_fields(one, MOVE) for one in (*picture.status.moves, *picture.ended)],
        "pools": [MessageToDict(one, preserving_proto_field_name=True) for one in picture.pools],
        "decisions": [_decision(request_id, placement) for request_id, placement in decisions],
    }


def _fields(message: Any, names: Sequence[str]) -> dict[str, Any]:
    return {name: _plain(getattr(message, name)) for name in names}


def _plain(value: Any) -> Any:
    """JSON has no infinity."""
    if isinstance(value, float):
        return round(value, 3) if math.isfinite(value) else None
    return value


def _decision(request_id: str, placement: Placement) -> dict[str, Any]:
    """`cost`: of the chosen one; `next`: the cheapest of the others, where any was weighed."""
    costs = {name: sum(term.raw * term.weight for term in terms) for name, terms in placement.terms.items()}
    cost = costs.pop(placement.instance, None)
    other = min(costs, key=lambda name: costs[name], default="")
    return {
        "request": request_id,
        "instance": placement.instance,
        "cached": placement.cached_tokens,
        "cost": None if cost is None else _plain(float(cost)),
        "next": other,
        "next_cost": _plain(float(costs[other])) if other else None,
    }


def story_tree(stories: Iterable[pb.RequestStory]) -> list[dict[str, Any]]:
    """Each request with its stays; zeros are said too. What JSON cannot say is null."""
    trees = [
        MessageToDict(one, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        for one in stories
    ]
    return [one for one in trees if one["stays"]]


__all__ = ["event", "picture_tree", "story_tree"]
