"""`shoal migrate`, `drain`, `scale`, `restart`, `roles`: one act of the controller each, followed until it is done."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from shoal.cluster.cli.status import PATIENCE_S, connect
from shoal.cluster.controller_client import ControllerClient
from shoal.proto.errors import Unavailable
from shoal.proto.v1 import controller_pb2 as pb

POLL_S = 0.2
MOVED = ("committed", "moved_waiting")
Done = Callable[[pb.StatusReply], bool]


def migrate(arguments: argparse.Namespace) -> int:
    with connect(arguments.name) as client:
        report = client.migrate(arguments.request, arguments.to)
    print(move_line(report))
    return 0 if report.outcome in MOVED else 1


def drain(arguments: argparse.Namespace) -> int:
    def gone(reply: pb.StatusReply) -> bool:
        return all(one.id != arguments.id for one in reply.instances)

    return _act(arguments, lambda client: client.drain(arguments.id), gone)


def scale(arguments: argparse.Namespace) -> int:
    def reached(reply: pb.StatusReply) -> bool:
        states = [one.state for one in reply.instances]
        return len(states) == arguments.instances and set(states) == {"ready"}

    return _act(arguments, lambda client: client.scale(arguments.instances), reached)


def restart(arguments: argparse.Namespace) -> int:
    def over(reply: pb.StatusReply) -> bool:
        return not reply.act and all(one.state == "ready" for one in reply.instances)

    return _act(arguments, lambda client: client.restart(), over)


def roles(arguments: argparse.Namespace) -> int:
    """Without an assignment, shows them."""
    with connect(arguments.name) as client:
        wanted = dict(part.partition("=")[::2] for part in arguments.assign)
        print(client.set_roles(wanted))
    return 0


def _act(arguments: argparse.Namespace, act: Callable[[ControllerClient], str], done: Done) -> int:
    """Shows each change of an instance. Ends early with an error where one is in quarantine."""
    with connect(arguments.name) as client:
        print(act(client), flush=True)
        end_s = time.monotonic() + arguments.timeout
        seen: dict[str, str] = {}
        while True:
            reply = client.status(patience_s=PATIENCE_S)
            now = {one.id: f"{one.state}  {one.note}".rstrip() for one in reply.instances}
            for slot_id in [*now, *(seen.keys() - now.keys())]:
                if now.get(slot_id) != seen.get(slot_id):
                    print(f"{slot_id}  {now.get(slot_id, 'gone')}", flush=True)
            seen = now
            if done(reply):
                return 0
            for one in reply.instances:
                if one.state == "quarantined":
                    raise Unavailable(f"{one.id} is quarantined: {one.note}")
            if time.monotonic() > end_s:
                raise Unavailable(f"not done within {arguments.timeout:g} s; it goes on, `shoal status` shows it")
            time.sleep(POLL_S)


def move_line(one: pb.MoveReport) -> str:
    took = f"{one.sent_bytes / 1e6:.2f} MB in {one.stages} stages, copy {one.copy_s * 1e3:.0f} ms, "
    took = f"{took}parked {one.parked_s * 1e3:.0f} ms" if one.stages or one.sent_bytes else "nothing copied"
    detail = f" ({one.detail})" if one.detail else ""
    return (
        f"{one.request_id}  {one.source} > {one.target}  {one.reason}: {one.outcome or 'under way'}{detail}, "
        f"{one.tokens} tokens, {took}"
    )


__all__ = ["drain", "migrate", "move_line", "restart", "roles", "scale"]
