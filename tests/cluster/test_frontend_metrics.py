"""What a frontend exports is its own: each number once, with its name on it, and nothing that an instance exports."""

import asyncio

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from shoal.cluster import frontend_metrics
from shoal.cluster.frontend_metrics import OF_THE_ENGINE, FrontendRegistry
from shoal.cluster.journal import Outcome, Verdict
from shoal.cluster.link import LinkEnd
from tests.tools.mini_cluster import MiniCluster, eventually


def samples(frontend, name="f0"):
    page = generate_latest(FrontendRegistry(frontend.dispatcher, "m", name)).decode()
    return [s for family in text_string_to_metric_families(page) for s in family.samples]


def ours(frontend, metric, **labels):
    wanted = {"model_name": "m", "frontend": "f0", **labels}
    (value,) = [s.value for s in samples(frontend) if s.name == f"shoal_frontend_{metric}" and s.labels == wanted]
    return value


async def test_requests_are_counted_by_their_one_outcome():
    async with MiniCluster(2) as cluster:
        frontend = await cluster.frontend()
        for n in range(3):
            await frontend.run(f"r{n}", [n], 4)
        await frontend.run("long", [1] * 5000)
        assert ours(frontend, "requests_total", outcome="length") == 3
        assert ours(frontend, "requests_total", outcome="refused") == 1
        assert sum(s.value for s in samples(frontend) if s.name == "shoal_frontend_requests_total") == 4
        assert ours(frontend, "outputs_total", verdict="fresh") == 12
        assert ours(frontend, "linked_instances") == 2
        assert ours(frontend, "open_requests") == ours(frontend, "queued_requests") == 0


async def test_every_outcome_verdict_and_end_has_its_line_from_the_start():
    async with MiniCluster(1) as cluster:
        frontend = await cluster.frontend()
        for outcome in Outcome:
            assert ours(frontend, "requests_total", outcome=outcome.value) == 0
        for verdict in Verdict:
            assert ours(frontend, "outputs_total", verdict=verdict.value) == 0
        for why in LinkEnd:
            assert ours(frontend, "link_ends_total", why=why.value) == 0


async def test_no_fault_is_silent():
    """P7: a lost instance, what moved because of it, and who waits for a place."""
    async with MiniCluster(1) as cluster:
        frontend = await cluster.frontend()
        run = asyncio.create_task(frontend.run("r", [1], 40))
        await eventually(lambda: "r" in frontend.replies)
        await frontend.replies["r"].wait_tokens(3)
        await cluster.instances["i0"].kill()
        await eventually(lambda: not frontend.dispatcher.links)
        assert ours(frontend, "link_ends_total", why="crashed") == 1
        assert ours(frontend, "failovers_total") == 1
        assert ours(frontend, "queued_requests") == ours(frontend, "open_requests") == 1
        assert ours(frontend, "linked_instances") == 0
        assert ours(frontend, "admitted_tokens") == 1 + len(frontend.replies["r"].tokens)
        await cluster.revive("i0")
        await run


async def test_gauges_of_the_engine_are_left_to_the_instance(monkeypatch):
    registry = CollectorRegistry()
    Gauge("vllm:num_requests_running", "", registry=registry).set(5)
    Gauge("vllm:kv_cache_usage_perc", "", registry=registry).set(5)
    Gauge("vllm:request_success", "", registry=registry).set(5)
    monkeypatch.setattr(frontend_metrics, "REGISTRY", registry)
    async with MiniCluster(1) as cluster:
        names = {s.name for s in samples(await cluster.frontend())}
    assert "vllm:request_success" in names
    assert not [name for name in names if name.startswith(OF_THE_ENGINE)]
