"""Where the episodes of training are played: Ray tasks, processes of this machine, or here, one after the other."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from shoal.bench.train.trainer import Spread


@contextmanager
def spreading(with_ray: bool, jobs: int) -> Iterator[Spread]:
    if with_ray:
        import ray  # noqa: PLC0415 - heavy, and only here

        ray.init(log_to_driver=False, ignore_reinit_error=True)
        remote = ray.remote(num_cpus=1)(_call)
        yield lambda work, given: ray.get([remote.remote(work, one) for one in given])
    elif jobs > 1:
        with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
            yield lambda work, given: list(pool.map(work, given))
    else:
        yield lambda work, given: list(map(work, given))


def _call(work: Callable[[Any], Any], one: Any) -> Any:
    return work(one)


__all__ = ["spreading"]
