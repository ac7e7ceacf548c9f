"""A real process that dies in the middle of a stream."""

import subprocess
import sys
from pathlib import Path

import pytest

from shoal.cluster.client import AsyncShoalClient
from shoal.proto.v1 import inference_pb2 as pb
from tests.cluster.client.frontends import Frontend, listening
from tests.cluster.client.test_clients import First, reply

ROOT = Path(__file__).parents[3]
VICTIM = """
import asyncio
from tests.cluster.client.frontends import Frontend, listening
from tests.cluster.client.test_clients import reply

async def main():
    async with listening(Frontend([reply(0, "he"), asyncio.Event().wait])) as (address,):
        print(address, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.fixture
def victim():
    process = subprocess.Popen([sys.executable, "-c", VICTIM], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.wait(10)
    process.stdout.close()


async def test_the_stream_of_a_killed_frontend_goes_on_through_another(victim):
    survivor = Frontend([reply(2, "llo", "length")])
    async with listening(survivor) as addresses:
        async with AsyncShoalClient([victim.stdout.readline().strip(), *addresses], rng=First()) as client:
            stream = client.generate("abc", request_id="r", timeout_s=60)
            text = (await anext(stream)).text
            victim.kill()
            text += (await stream.complete()).text
    assert text == "hello"
    assert survivor.calls == [pb.ResumeRequest(request_id="r", next_index=2)]
