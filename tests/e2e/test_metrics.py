"""Metrics pages: each request is counted by one frontend only, each engine's gauges come from its instance only."""

from __future__ import annotations

import time
from collections.abc import Iterable

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.conftest import Cluster


def total(pages: list[str], name: str, **labels: str) -> float:
    samples = (s for page in pages for f in text_string_to_metric_families(page) for s in f.samples)
    return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


def pages_of(cluster: Cluster) -> tuple[list[str], list[str]]:
    """(frontends', instances')"""
    status = cluster.status()
    return _pages(f.metrics for f in status.frontends), _pages(i.metrics for i in status.instances)


def _pages(urls: Iterable[str]) -> list[str]:
    return [httpx.get(url, timeout=10).text for url in urls]


def test_a_sum_over_the_frontends_is_the_truth(cluster: Cluster) -> None:
    cluster.await_idle()
    frontends, _ = pages_of(cluster)
    before = total(frontends, "shoal_frontend_requests_total", outcome="length")
    tokens_before = total(frontends, "vllm:generation_tokens_total")
    for number in range(20):  # a new connection each: the kernel spreads them over both listeners
        body = {"model": "tiny", "prompt": [number] * 20, "max_tokens": 3, "ignore_eos": True}
        httpx.post(
            f"{cluster.url}/v1/completions", json=body, headers={"authorization": "Bearer key-of-ada"}, timeout=30
        )
    give_up_s = time.monotonic() + 20
    while True:  # an answer is counted just after its client has it
        frontends, instances = pages_of(cluster)
        counted = total(frontends, "shoal_frontend_requests_total", outcome="length") - before
        if counted >= 20 or time.monotonic() > give_up_s:
            break
        time.sleep(0.1)
    assert len(frontends) == 2
    assert counted == 20
    assert total(frontends, "vllm:generation_tokens_total") - tokens_before == 60
    assert total(frontends, "vllm:num_requests_running") == 0
    assert "vllm:num_requests_running" not in "".join(frontends)
    assert "vllm:kv_cache_usage_perc" in instances[0] and "vllm:kv_cache_usage_perc" in instances[1]
