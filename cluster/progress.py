"""Is a starting cluster up, lost, or neither yet; and how it is told to a person. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.proto.config import ClusterConfig
from shoal.proto.v1 import controller_pb2 as pb

RESTARTING = "restarting after: "


@dataclass(frozen=True, slots=True)
class Verdict:
    """done with an empty error: up."""

    done: bool
    error: str = ""


def judge(status: pb.StatusReply, config: ClusterConfig, *, frontends_error: str, waited_s: float) -> Verdict:
    """A death before the cluster was ever up is taken as the cluster's: it would only die again."""
    for one in status.instances:
        if one.deaths:
            reason = one.note.removeprefix(RESTARTING).removeprefix(f"instance {one.id}: ")
            return Verdict(True, f"instance {one.id} did not start: {reason}")
    if frontends_error:
        return Verdict(True, frontends_error)
    ready = sum(one.state == "ready" for one in status.instances)
    serving = sum(one.state != "starting" for one in status.frontends)
    if ready >= config.instances and serving >= config.frontends:
        return Verdict(True)
    if waited_s > config.start_timeout_s:
        seen = f"{ready} of {config.instances} instances and {serving} of {config.frontends} frontends"
        return Verdict(True, f"start_timeout_s: {seen} are ready after {config.start_timeout_s:g} s")
    return Verdict(False)


def progress_lines(status: pb.StatusReply, config: ClusterConfig) -> dict[str, str]:
    """One line per instance, one for the frontends, and one as soon as a request would be answered."""
    lines = {one.id: f"{one.id}  {one.state:<12} {one.note}".rstrip() for one in status.instances}
    serving = sum(one.state != "starting" for one in status.frontends)
    lines["frontends"] = f"frontends  {serving} of {config.frontends} serving"
    if serving and config.frontend == "own" and any(one.state == "ready" for one in status.instances):
        lines["first"] = f"answering at http://{config.host}:{config.http_port}/v1; the rest is still coming up"
    return lines


__all__ = ["RESTARTING", "Verdict", "judge", "progress_lines"]
