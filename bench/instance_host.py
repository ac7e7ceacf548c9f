"""Instances in one plain process, without Ray, for tests and benchmarks: the same engine, stepper and server as in
production.

usage: python -m shoal.bench.instance_host CONFIG_JSON TOKEN COUNT
Prints one JSON line {"instances": [{"id", "address", "pid", "metrics"}]} once all serve, then runs until its standard
input closes.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

from shoal.instance.actor import InstanceActor


async def host(config_json: str, token: str, count: int) -> None:
    actors = [InstanceActor(config_json, token) for _ in range(count)]
    served = [{"id": f"i{n}", **await actor.start(f"i{n}", 1, None)} for n, actor in enumerate(actors)]
    print(json.dumps({"instances": served}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(host(sys.argv[1], sys.argv[2], int(sys.argv[3])))
