"""What an instance exports is its own state, under vLLM's names where vLLM has them."""

import asyncio
import threading
import urllib.request
from collections.abc import AsyncIterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from shoal.instance.metrics import InstanceMetrics, serve_metrics
from tests.instance.peer import Instance, attached, submit

LABELS = {"model_name": "m", "engine": "i0"}


@pytest.fixture
async def instance() -> AsyncIterator[Instance]:
    async with Instance() as instance:
        yield instance


async def scrape(instance: Instance) -> dict[str, float]:
    url, http_server = serve_metrics(instance.server, "127.0.0.1")
    try:
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=10).read().decode())
    finally:
        await asyncio.to_thread(http_server.shutdown)
        http_server.server_close()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert all(sample.labels | LABELS == sample.labels for sample in samples)
    return {sample.name: sample.value for sample in samples if sample.labels == LABELS}


async def test_an_idle_instance_reports_zero_and_all_its_blocks(instance: Instance) -> None:
    values = await scrape(instance)
    total = instance.engine.info.total_blocks
    assert values["shoal_instance_free_blocks"] == values["shoal_instance_total_blocks"] == total
    assert values["vllm:kv_cache_usage_perc"] == 0
    assert values["vllm:num_requests_running"] == values["vllm:num_requests_waiting"] == 0
    assert values["shoal_instance_steps_total"] == values["shoal_instance_watchers"] == 0


async def test_the_numbers_are_those_of_the_running_work(instance: Instance) -> None:
    instance.pace.hold()
    async with attached(instance, "f1", "f2") as [peer, _]:
        # 60 of 64 tokens of the first step go to `a`; the second request's prompt is cut and still runs its prefill.
        peer.send(submit("a", [1] * 60, max_tokens=50), submit("b", [2] * 60, max_tokens=50))
        await peer.turn()
        instance.pace.let(3)
        await peer.until(lambda: len(peer.outputs()["a"]) == 3 and bool(peer.outputs()["b"]))
        values, load = await scrape(instance), instance.server.load
        assert values["vllm:num_requests_running"] == 2
        assert values["shoal_instance_free_blocks"] == load.free_blocks < load.total_blocks
        assert values["vllm:kv_cache_usage_perc"] == pytest.approx(1 - load.free_blocks / load.total_blocks)
        assert values["shoal_instance_held_requests"] == values["shoal_instance_watchers"] == 2
        assert values["shoal_instance_steps_total"] == instance.server.stepper.step > 0
        assert values["shoal_instance_block_changes_total"] == instance.server.blocks.sequence > 0
        assert values["shoal_instance_step_seconds"] == pytest.approx(load.step_ms / 1000)


async def test_it_can_be_read_while_streams_come_and_go(instance: Instance) -> None:
    done = threading.Event()

    def collect_on() -> int:
        collected = 0
        while not done.is_set():
            collected += len(InstanceMetrics(instance.server).collect())
        return collected

    collecting = asyncio.create_task(asyncio.to_thread(collect_on))
    for n in range(10):
        async with attached(instance, f"f{n}"):
            pass
    done.set()
    assert await collecting > 0
