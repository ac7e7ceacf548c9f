"""What must hold after every run, whatever was killed meanwhile; each check returns one line per violation, none if all
is well.

P1: each client saw token indexes 0..n once, in order, with the tokens of an undisturbed run. P2: after the last request
every block is free. P6: each submitted request has exactly one outcome, from the closed list. Besides: files, threads,
children and shared memory are as before.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

SHM = Path("/dev/shm")


@dataclass(frozen=True)
class Stream:
    """What one client saw: (index, token) in order of arrival, and every outcome that it was told."""

    events: Sequence[tuple[int, int]]
    outcomes: Sequence[str] = ()


def check_tokens(seen: Mapping[str, Stream], reference: Mapping[str, Sequence[int]]) -> list[str]:
    """P1. A stream that ended early (an error outcome, a client that hung up) must be a prefix; see `check_whole`."""
    found = []
    for request_id, stream in seen.items():
        indexes = [index for index, _ in stream.events]
        if indexes != list(range(len(indexes))):
            bad = next(i for i, index in enumerate(indexes) if index != i)
            kind = "repeated" if indexes[bad] in indexes[:bad] else "skipped to"
            found.append(f"P1 {request_id}: index {indexes[bad]} {kind} where {bad} was due")
            continue
        expected = reference[request_id]
        for index, token in stream.events:
            if index >= len(expected):
                found.append(f"P1 {request_id}: token {token} at {index}, but the reference has only {len(expected)}")
                break
            if token != expected[index]:
                found.append(f"P1 {request_id}: token {token} at {index}, the reference has {expected[index]}")
                break
    return found


def check_whole(seen: Mapping[str, Stream], reference: Mapping[str, Sequence[int]]) -> list[str]:
    """P1 for requests that nothing entitles to end early: not a token is missing at the end."""
    return [
        f"P1 {request_id}: {len(stream.events)} tokens of {len(reference[request_id])}"
        for request_id, stream in seen.items()
        if len(stream.events) < len(reference[request_id])
    ]


def check_blocks(status: Mapping[str, Any]) -> list[str]:
    """P2 on what `shoal status --json` prints, once nothing runs."""
    found = []
    for instance in status["instances"]:
        if instance["state"] != "ready":
            continue
        if instance["free_blocks"] != instance["total_blocks"]:
            found.append(
                f"P2 {instance['id']}: {instance['free_blocks']} of {instance['total_blocks']} blocks are free"
            )
        if instance["running"] or instance["waiting"]:
            found.append(f"P2 {instance['id']}: {instance['running']} running, {instance['waiting']} waiting")
    return found


def check_outcomes(seen: Mapping[str, Stream], submitted: Iterable[str], closed_list: Iterable[str]) -> list[str]:
    """P6."""
    allowed, submitted = frozenset(closed_list), frozenset(submitted)
    found = [f"P6 {request_id}: never submitted" for request_id in sorted(seen.keys() - submitted)]
    for request_id in sorted(submitted):
        outcomes = seen[request_id].outcomes if request_id in seen else ()
        if len(outcomes) != 1:
            found.append(f"P6 {request_id}: {len(outcomes)} outcomes {list(outcomes)}")
        found += [f"P6 {request_id}: outcome {name!r} is not on the list" for name in outcomes if name not in allowed]
    return found


@dataclass(frozen=True)
class Resources:
    """What processes hold. `of(pid)` is one process and how many children it has; shared memory is the machine's."""

    files: int
    threads: int
    children: frozenset[int]
    shm_names: frozenset[str]

    @classmethod
    def of(cls, pid: int | None = None) -> "Resources":
        process = psutil.Process(pid)
        children = set()
        for child in process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.status() != psutil.STATUS_ZOMBIE:
                    children.add(child.pid)
        names = frozenset(p.name for p in SHM.iterdir()) if SHM.is_dir() else frozenset()
        return cls(process.num_fds(), process.num_threads(), frozenset(children), names)


def check_resources(before: Resources, after: Resources, *, spare_files: int = 0, spare_threads: int = 0) -> list[str]:
    """The spares are for what a library opens once and keeps; say in the test what that is."""
    found = []
    if (more := after.files - before.files) > spare_files:
        found.append(f"resources: {more} more open files than before")
    if (more := after.threads - before.threads) > spare_threads:
        found.append(f"resources: {more} more threads than before")
    if left := after.children - before.children:
        found.append(f"resources: child processes {sorted(left)} are left")
    if names := after.shm_names - before.shm_names:
        found.append(f"resources: {sorted(names)} left in {SHM}")
    return found


def settle(check: Callable[[], list[str]], *, within_s: float, every_s: float = 0.05) -> list[str]:
    """The violations that are still there after `within_s`; returns as soon as there are none."""
    end_s = time.monotonic() + within_s
    while (found := check()) and time.monotonic() < end_s:
        time.sleep(every_s)
    return found


__all__ = [
    "Resources",
    "Stream",
    "check_blocks",
    "check_outcomes",
    "check_resources",
    "check_tokens",
    "check_whole",
    "settle",
]
