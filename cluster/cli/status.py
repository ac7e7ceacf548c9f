"""`shoal status` and `shoal revive`: one question to the controller, shown as a table or as JSON."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from shoal.cluster.controller_client import ControllerClient, admin_client
from shoal.cluster.rundir import find
from shoal.proto.config import load_config
from shoal.proto.errors import Unavailable
from shoal.proto.v1 import controller_pb2 as pb

INSTANCE_KEYS = ("id", "role", "state", "pid", "running", "waiting", "free_blocks", "total_blocks", "step_ms")
FRONTEND_KEYS = ("id", "http", "grpc", "metrics", "pid", "state")
EXTRA_INSTANCE_KEYS = ("deaths", "note", "metrics")
PATIENCE_S = 5.0
POD_MARK = "SHOAL_SECRETS"


def connect(name: str) -> ControllerClient:
    if POD_MARK in os.environ:
        from shoal.cluster.cli.pod import connect_in_pod  # noqa: PLC0415 - Ray, heavy and needed only there

        return connect_in_pod(os.environ)
    run = find(name)
    state = run.state()
    if state is None or not run.is_running():
        raise Unavailable("not running; `shoal up` starts it")
    if not state.controller:
        raise Unavailable(f"it is {state.phase}, without a controller so far ({state.step})")
    return admin_client(state.controller, load_config(run.config, {}))


def status(arguments: argparse.Namespace) -> int:
    with connect(arguments.name) as client:
        reply = client.status(patience_s=PATIENCE_S)
    print(json.dumps(as_tree(reply)) if arguments.json else as_table(reply))
    return 0


def revive(arguments: argparse.Namespace) -> int:
    with connect(arguments.name) as client:
        ids = client.revive(arguments.id)
    print(f"started again: {', '.join(ids)}" if ids else "nobody is in quarantine")
    return 0


def _row(message: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: round(value, 3) if isinstance(value := getattr(message, key), float) else value for key in keys}


def as_tree(reply: pb.StatusReply) -> dict[str, Any]:
    return {
        "instances": [_row(one, INSTANCE_KEYS + EXTRA_INSTANCE_KEYS) for one in reply.instances],
        "frontends": [_row(one, FRONTEND_KEYS) for one in reply.frontends],
        "metrics": reply.metrics,
    }


def as_table(reply: pb.StatusReply) -> str:
    instances = as_rows([_row(one, (*INSTANCE_KEYS, "note")) for one in reply.instances])
    frontends = as_rows([_row(one, FRONTEND_KEYS) for one in reply.frontends])
    return f"{instances or 'no instances'}\n\n{frontends or 'no frontends'}"


def as_rows(rows: list[dict[str, Any]]) -> str:
    """A table with a head; nothing where there are no rows."""
    if not rows:
        return ""
    cells = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)
    return "\n".join(line.rstrip() for line in lines)


__all__ = ["as_rows", "as_table", "as_tree", "connect", "revive", "status"]
