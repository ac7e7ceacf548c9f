"""Instances in one plain process, without Ray, for tests and benchmarks: the same engine, stepper and server as in
production.

usage: python -m shoal.bench.instance_host CONFIG_JSON TOKEN COUNT [FIRST]
They are called i<FIRST>, i<FIRST + 1> and so on; FIRST is 0 where it is not given. Prints one JSON line
{"instances": [{"id", "address", "pid", "metrics"}]} once all serve, then runs until its standard input closes. A line
`arm POINT ACTION` arms a fail-point, `hits POINT` is answered by {"hits"}, how often it was passed since; any other one
stops it in good order.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

from shoal.instance.actor import InstanceActor
from shoal.proto import failpoints


async def host(config_json: str, token: str, count: int, first: int = 0) -> None:
    actors = {f"i{number}": InstanceActor(config_json, token) for number in range(first, first + count)}
    served = [{"id": name, **await actor.start(name, 1, None)} for name, actor in actors.items()]
    print(json.dumps({"instances": served}), flush=True)
    while (line := await asyncio.to_thread(sys.stdin.readline)).startswith(("arm ", "hits ")):
        word, point, *action = line.split()
        if word == "arm":
            failpoints.arm(point, *action)
        print(json.dumps({"hits": failpoints.hits(point)}), flush=True)
    if line:
        await asyncio.gather(*(actor.stop() for actor in actors.values()))
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(host(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])))
