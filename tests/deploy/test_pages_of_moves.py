"""The pages of migration and pool, asked of a real Prometheus while fake engines move requests and a pool works."""

import asyncio
import json
import math
import time
from pathlib import Path

import pytest

from shoal.cluster.frontend_metrics import FrontendRegistry
from shoal.instance.metrics import serve_metrics
from shoal.instance.metrics_page import serve_page
from shoal.instance.pool.metrics import serve_pool_metrics
from shoal.proto import failpoints
from shoal.proto.v1 import instance_pb2 as pb
from shoal.proto.v1 import pool_pb2
from tests.deploy.render import ROOT
from tests.instance.pool.pools import keys, serving, sizes
from tests.tools.mini_cluster import MiniCluster, eventually
from tests.tools.servers import Prometheus

WORK_S = 9.0


def missing(page: str, prometheus: Prometheus, start_s: float) -> list[str]:
    """Panels of the page whose data never came, or never moved: from one number to another, or from none to one."""
    found = []
    for panel in json.loads((ROOT / "deploy" / "grafana" / f"{page}.json").read_text())["panels"]:
        for target in panel["targets"]:
            asked = target["expr"].replace("$model", ".*").replace("$__rate_interval", "5s")
            series = prometheus.series(asked, start_s, time.time())
            # A quantile is no number before the first move, and may stay in its one bucket after it.
            if not any(len({None if math.isnan(value) else value for value in one}) > 1 for one in series):
                found.append(f"{panel['title']}: {asked}")
    return found


def target_of(url: str) -> str:
    return url.removeprefix("http://").removesuffix("/metrics")


async def move_about(cluster: MiniCluster, end_s: float) -> None:
    """Requests one after the other, each moved once while it runs."""
    frontend = cluster.frontends[0]
    number = 0
    while time.monotonic() < end_s:
        number += 1
        name = f"r{number}"
        run = asyncio.create_task(frontend.run(name, [number] * 50, 600))
        await eventually(lambda name=name: name in frontend.replies)
        await frontend.replies[name].wait_tokens(20)
        source = frontend.replies[name].context.instance
        target = next(one for one in cluster.names if one != source)
        failpoints.arm("departure.hand_over", f"delay:{0.3 * (number % 2)}")  # pauses of two lengths, a bucket each
        words = pb.Move(move_id=f"m{number}", request_id=name, frontend="f0", target=target, reason="person")
        frontend.ask(source, move=words)
        await run


@pytest.mark.servers
async def test_every_panel_of_migration_moves_when_requests_do(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    failpoints.arm("departure.look", "delay:0.05")  # or a gauge of moves under way is zero whenever somebody looks
    request.addfinalizer(failpoints.clear)
    async with MiniCluster(2) as cluster:
        frontend = await cluster.frontend()
        peers = {name: instance.address for name, instance in cluster.instances.items()}
        for name in cluster.names:
            frontend.ask(name, peers=pb.Peers(addresses=peers))
        pages = [serve_page(FrontendRegistry(frontend.dispatcher, "m", "f0"), "127.0.0.1", 0)]
        pages += [serve_metrics(one.server, "127.0.0.1") for one in cluster.instances.values()]
        prometheus = Prometheus(tmp_path, [target_of(url) for url, _ in pages])
        await asyncio.to_thread(prometheus.start)
        try:
            start_s = time.time()
            await asyncio.sleep(2)
            await move_about(cluster, time.monotonic() + WORK_S)
            await asyncio.sleep(1.5)
            assert await asyncio.to_thread(missing, "migration", prometheus, start_s) == []
        finally:
            await asyncio.to_thread(prometheus.stop)
            for _, server in pages:
                await asyncio.to_thread(server.shutdown)
                server.server_close()


@pytest.mark.servers
def test_every_panel_of_the_pool_moves_when_it_works(tmp_path: Path) -> None:
    with serving(made=sizes(2, slots=16)) as pool:
        url, server = serve_pool_metrics(pool.service, "127.0.0.1")
        try:
            with Prometheus(tmp_path, [target_of(url)]) as prometheus:
                start_s = time.time()
                time.sleep(2)
                for number in range(int(WORK_S)):
                    pool.save(range(3 * number, 3 * number + 3))
                    pool.load(range(3 * number + 1))
                    lease = pool.pool.client.call("Lease", pool_pb2.Run(keys=keys([3 * number]), wait_s=5.0))
                    time.sleep(1)
                    if number % 2:
                        pool.pool.client.call("Release", pool_pb2.Name(name=lease.name))
                assert missing("pool", prometheus, start_s) == []
        finally:
            server.shutdown()
            server.server_close()
