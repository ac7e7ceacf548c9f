"""`shoal`: starts, shows and ends a cluster on this machine, talks to it and measures it.

Every failure is one line on stderr and a non-zero exit. Nothing heavy is imported here: Ray and vLLM live in the
processes that `up` starts.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from shoal.cluster.cli.flags import add_flags
from shoal.cluster.rundir import DEFAULT_NAME
from shoal.proto.errors import ShoalError

INTERRUPTED = 130
OF_BENCH = ("bench", "train")  # they read their own flags
# An act is a function of its name, in a module of its name but for these.
MODULES = {"revive": "status", "key": "keys"} | dict.fromkeys(("migrate", "drain", "scale", "restart", "roles"), "acts")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="shoal", description="Many vLLM instances that move as one.", allow_abbrev=False
    )
    parser.add_argument("--name", default=DEFAULT_NAME, help="which cluster of this user (default: %(default)s)")
    acts = parser.add_subparsers(dest="act", required=True, metavar="ACT")
    up = acts.add_parser(
        "up",
        help="start a cluster and show how to use it",
        usage="shoal up [--config FILE] [--KEY VALUE ...]   (shoal up --help lists the keys)",
        description="Every key of the configuration file is a flag, and a flag wins over the file.",
        allow_abbrev=False,
    )
    up.add_argument("--config", type=Path, metavar="FILE", help="YAML")
    add_flags(up)
    acts.add_parser("down", help="end it and everything it started", allow_abbrev=False)
    status = acts.add_parser("status", help="what runs, where, and how it is", allow_abbrev=False)
    status.add_argument("--json", action="store_true", help="one JSON object")
    revive = acts.add_parser("revive", help="start quarantined instances again", allow_abbrev=False)
    revive.add_argument("id", nargs="?", default="", help="one instance (default: all)")
    chat = acts.add_parser("chat", help="talk to the model", allow_abbrev=False)
    chat.add_argument("--url", default="", help="of any OpenAI server (default: this cluster's)")
    chat.add_argument("--key", default="", help="API key (default: $SHOAL_API_KEY)")
    chat.add_argument("--model", default="", help="default: the first one that the server lists")
    chat.add_argument("--max-tokens", type=int, default=256)
    batch = acts.add_parser("batch", help="answer a file of requests with what is left over", allow_abbrev=False)
    batch.add_argument("file", type=Path, help="JSON lines in OpenAI's batch format")
    batch.add_argument("--out", type=Path, help="default: FILE.out.jsonl; what is answered there is not asked again")
    batch.add_argument("--url", default="", help="of any OpenAI server (default: this cluster's)")
    batch.add_argument("--key", default="", help="API key (default: $SHOAL_API_KEY)")
    batch.add_argument("--parallel", type=int, default=64, help="requests in flight at most (default: %(default)s)")
    batch.add_argument("--timeout", type=float, default=86_400.0, help="seconds for all (default: %(default)g)")
    certs = acts.add_parser("certs", help="a throw-away authority and certificates for `tls`", allow_abbrev=False)
    certs.add_argument("folder", type=Path)
    certs.add_argument("--host", action="append", help="clients know the frontends by it (default: this machine)")
    certs.add_argument("--days", type=int, default=30)
    key = acts.add_parser("key", help="make an API key, and its digest for `keys`", allow_abbrev=False)
    key.add_argument("owner", help="tenant, or for `admin_keys` a person")
    _add_acts_on_the_fleet(acts)
    _add_router(acts)
    acts.add_parser("train", help="train router weights in the simulator; `shoal train --help`", add_help=False)
    acts.add_parser("bench", help="measurements; `shoal bench --help` lists them", add_help=False)
    return parser


def _add_acts_on_the_fleet(acts: Any) -> None:
    migrate = acts.add_parser("migrate", help="move a running or waiting request", allow_abbrev=False)
    migrate.add_argument("request", help="its id, or a part of it that no other has")
    migrate.add_argument("--to", required=True, metavar="ID", help="an instance")
    drain = acts.add_parser("drain", help="empty an instance by migration, then stop it", allow_abbrev=False)
    drain.add_argument("id")
    scale = acts.add_parser("scale", help="how many instances there shall be", allow_abbrev=False)
    scale.add_argument("instances", type=int)
    restart = acts.add_parser("restart", help="replace all instances, one after the other", allow_abbrev=False)
    for act in (drain, scale, restart):
        act.add_argument("--timeout", type=float, default=600.0, help="seconds to watch it (default: %(default)g)")
    roles = acts.add_parser("roles", help="who prefills, who decodes; without arguments: show it", allow_abbrev=False)
    roles.add_argument("assign", nargs="*", metavar="ID=ROLE", help="prefill, decode or mixed")
    top = acts.add_parser("top", help="instances, load and moves, live", allow_abbrev=False)
    top.add_argument("--interval", type=float, default=1.0, help="seconds between two pictures")
    top.add_argument("--count", type=int, default=0, help="pictures (default: without end, or one if not a terminal)")
    explain = acts.add_parser("explain", help="where a request was placed, why, and its moves", allow_abbrev=False)
    explain.add_argument("request", help="its id, or a part of it")


def _add_router(acts: Any) -> None:
    router = acts.add_parser("router", help="learned weights: watch them, let them decide, go back", allow_abbrev=False)
    ways = router.add_subparsers(dest="way", required=True, metavar="WAY")
    weights = ways.add_parser("weights", help="how the rollout stands, or what is in a file", allow_abbrev=False)
    weights.add_argument("file", nargs="?", type=Path, help="check it and show it; nothing is published")
    shadow = ways.add_parser("shadow", help="publish weights: asked beside the policy, deciding nothing")
    shadow.add_argument("file", nargs="?", type=Path, help="default: those that came with this version")
    canary = ways.add_parser("canary", help="let them decide for a share of the requests", allow_abbrev=False)
    canary.add_argument("share", type=float, help="above 0, at most 0.95")
    ways.add_parser("rollback", help="back to the configured policy", allow_abbrev=False)
    ways.add_parser("withdraw", help="back, and forget the weights", allow_abbrev=False)


def dispatch(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Each act imports only what it needs: start in 0.2 s."""
    match arguments.act:
        case "train":
            from shoal.bench.train.cli import main as train  # noqa: PLC0415 - heavy, and needs the extra `train`

            return train(rest)
        case "bench":
            from shoal.bench.cli import main as bench  # noqa: PLC0415 - heavy, and needs the bench extra

            return int(bench(rest) or 0)
        case act:
            module = import_module(f"shoal.cluster.cli.{MODULES.get(act, act)}")
            return int(getattr(module, act)(arguments))


def main(argv: list[str] | None = None) -> int:
    given = sys.argv[1:] if argv is None else argv
    parser = build_parser()
    arguments, rest = parser.parse_known_args(given)
    if rest and arguments.act not in OF_BENCH:
        print(f"shoal {arguments.act}: no such flag or key: {' '.join(rest)}", file=sys.stderr)
        return 2
    if arguments.act in OF_BENCH:
        rest = given[given.index(arguments.act) + 1 :]
    try:
        return dispatch(arguments, rest)
    except ShoalError as exc:
        print(f"shoal {arguments.act}: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
