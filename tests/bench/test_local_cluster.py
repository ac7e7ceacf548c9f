"""A whole cluster of processes, without Ray: what the controller does to it, seen from a client's stream."""

import asyncio
from pathlib import Path

from shoal.bench.drain import mismatches
from shoal.bench.local_cluster import VOCABULARY, LocalCluster, fake_config
from shoal.bench.record import End, Record
from shoal.bench.workload import LoadRequest, PromptMaker
from shoal.proto.config import MigrationConfig


async def test_a_drain_and_a_dead_controller_cost_no_request_and_no_token(tmp_path: Path):
    prompts = PromptMaker(0, VOCABULARY)
    config = fake_config(2, fake={"a_ms": 20.0})
    async with asyncio.timeout(100), LocalCluster(config, tmp_path) as cluster:
        cluster.controller.planner.rules = MigrationConfig(enabled=False)
        frontend = await cluster.frontend("round_robin", prompts)
        records = [Record(LoadRequest(n, 0.0, 200, 250)) for n in range(8)]
        streams = [asyncio.create_task(frontend.run(record)) for record in records]
        while min(record.output_tokens for record in records) < 5:
            await asyncio.sleep(0.01)
        pids = {slot.pid for slot in cluster.controller.slots.values()}
        await cluster.restart_controller()
        await cluster.until_ready(2)
        assert {slot.pid for slot in cluster.controller.slots.values()} == pids, "the new one found the old processes"
        cluster.controller.drain("i0")
        await cluster.until_ready(1)
        assert list(cluster.controller.slots) == ["i1"]
        await asyncio.gather(*streams)
        moves = [one.outcome for one in cluster.controller.planner.ended if one.reason == "drain"]
        assert moves.count("committed") == 4, moves
        assert [record.end for record in records] == [End.COMPLETED] * 8
        assert mismatches(records, prompts) == 0 and frontend.dispatcher.failovers == 0
