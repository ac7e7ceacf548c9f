"""`shoal top`: instances, load, freeness, and the moves in flight; live on a terminal, plain text elsewhere."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from shoal.cluster.cli.status import PATIENCE_S, as_rows, connect
from shoal.proto.v1 import controller_pb2 as pb

CLEAR = "\x1b[H\x1b[J"


def top(arguments: argparse.Namespace) -> int:
    live = sys.stdout.isatty()
    shown = 0
    with connect(arguments.name) as client:
        while True:
            print(f"{CLEAR if live else ''}{as_screen(client.status(patience_s=PATIENCE_S))}", flush=True)
            shown += 1
            if shown == (arguments.count or (0 if live else 1)):
                return 0
            time.sleep(arguments.interval)


def as_screen(reply: pb.StatusReply) -> str:
    running = sum(one.running for one in reply.instances)
    waiting = sum(one.waiting for one in reply.instances)
    head = f"{running} running, {waiting} waiting, {len(reply.moves)} moves in flight  {reply.act}".rstrip()
    return "\n\n".join([head, as_rows([_instance(one, reply) for one in reply.instances]), *_moves(reply)])


def _instance(one: pb.InstanceStatus, reply: pb.StatusReply) -> dict[str, Any]:
    used = one.total_blocks - one.free_blocks
    return {
        "id": one.id,
        "state": one.state,
        "running": one.running,
        "waiting": one.waiting,
        "kv": f"{100 * used / one.total_blocks:.0f} %" if one.total_blocks else "-",
        "step_ms": f"{one.step_ms:.1f}",
        "freeness": f"{one.freeness:.0f}",
        "out": sum(move.source == one.id for move in reply.moves),
        "in": sum(move.target == one.id for move in reply.moves),
        "note": one.note,
    }


def _moves(reply: pb.StatusReply) -> list[str]:
    rows: list[dict[str, Any]] = [
        {
            "move": f"{one.source} > {one.target}",
            "request": one.request_id,
            "reason": one.reason,
            "age_s": f"{one.age_s:.1f}",
        }
        for one in reply.moves
    ]
    return [as_rows(rows)] if rows else []


__all__ = ["as_screen", "top"]
