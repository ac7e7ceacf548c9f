"""A real cluster with a pool: what an instance computed outlives it, and `shoal down` leaves nothing of the pool."""

from __future__ import annotations

import os
import random
import signal
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from shoal.bench.oracle import settle
from shoal.bench.processes import free_port
from shoal.bench.under_test import ShoalUnderTest
from shoal.cluster.client import ShoalClient
from shoal.cluster.reaper import is_alive, shm_in_use, shm_names
from shoal.instance.metrics_page import PAGES
from shoal.instance.pool.arena import PREFIX
from shoal.instance.tiny_model import ensure_tiny_model
from shoal.proto.config import ClusterConfig, parse_config

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(300)]

T = TypeVar("T")
PROMPT_BLOCKS = 20
PATIENCE_S = 90.0


def configuration() -> ClusterConfig:
    return parse_config(
        {
            "model": str(ensure_tiny_model()),
            "served_model_name": "tiny",
            "instances": 1,
            "http_port": free_port(),
            "grpc_port": free_port(),
            "metrics_port": free_port(),
            "admission": {"no_instance_wait_s": 60},
            "engine": {"dtype": "float32", "max_model_len": 2048, "kv_cache_bytes": 1 << 26},
            "pool": {"memory_bytes": 32 << 20, "segment_bytes": 8 << 20},
        }
    )


def until(ask: Callable[[], T | None]) -> T:
    end_s = time.monotonic() + PATIENCE_S
    while (answer := ask()) is None:
        assert time.monotonic() < end_s, "gave up waiting"
        time.sleep(0.1)
    return answer


def events(config: ClusterConfig) -> dict[str, float]:
    """What became of blocks, from the pool's own page, which is one of those from `metrics_port` on."""
    for port in range(config.metrics_port, config.metrics_port + PAGES):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
                families = {one.name: one for one in text_string_to_metric_families(page.read().decode())}
        except OSError:
            continue
        if (counts := families.get("shoal_pool_block_events")) is not None:
            return {sample.labels["event"]: sample.value for sample in counts.samples}
    return {}


def pools(shoal: ShoalUnderTest) -> list[int]:
    return [pid for pid in shoal.pids() if psutil.Process(pid).cmdline()[:1] == ["ray::PoolActor"]]


def test_blocks_outlive_the_instance_that_computed_them_and_nothing_outlives_the_cluster(tmp_path: Path) -> None:
    config, before = configuration(), shm_names()
    tokens = [random.Random(1).randrange(256) for _ in range(PROMPT_BLOCKS * config.engine.block_size + 3)]
    with ShoalUnderTest(config, tmp_path) as shoal, ShoalClient(f"127.0.0.1:{config.grpc_port}") as client:

        def answer() -> list[int]:
            stream = client.generate(token_ids=tokens, max_tokens=8, ignore_eos=True, temperature=0.0)
            return [token for reply in stream for token in reply.token_ids]

        (old,) = shoal.wait_up(PATIENCE_S).ready()
        (pool,) = pools(shoal)
        arena = {name for name in shm_in_use([pool]) if name.startswith(PREFIX)}
        assert len(arena) == 4
        want = answer()
        stored = until(lambda: ((now := events(config)).get("stored", 0) >= 4 + PROMPT_BLOCKS and now) or None)

        os.kill(old.pid, signal.SIGKILL)
        until(lambda: [one for one in shoal.status().ready() if one.pid != old.pid] or None)
        assert not is_alive(old.pid)
        assert pools(shoal) == [pool] and arena <= shm_names()

        assert answer() == want
        assert events(config)["leased"] - stored["leased"] == PROMPT_BLOCKS

        ours = shoal.pids()
        assert shoal.down() == 0
        assert settle(lambda: [str(pid) for pid in ours if is_alive(pid)], within_s=10.0) == []
        assert shm_names() - before == set()
