"""An instance that was streaming dies or freezes: every stream goes on, token for token, and its slot is filled."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from shoal.cluster.client import AsyncShoalClient
from tests.e2e.conftest import Cluster

TOKENS = 400


@dataclass(frozen=True)
class Kind:
    """Sampling of one stream. Greedy ones must be equal whatever happens; seeded ones too, their generator replayed."""

    sampling: dict


KINDS = [
    Kind({"temperature": 0.0}),
    Kind({"temperature": 1.0, "seed": 11, "presence_penalty": 0.5, "repetition_penalty": 1.1}),
    Kind({"temperature": 0.8, "seed": 7, "top_p": 0.9, "top_k": 40, "min_tokens": 200}),
    Kind({"temperature": 1.0, "seed": 3, "json_object": True, "max_tokens": TOKENS}),
]


def state_of(pid: int) -> str:
    """As the kernel says it; gone = ''."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


async def stream(client: AsyncShoalClient, number: int, progress: dict[int, int], tag: str) -> list[int]:
    prompt = [random.Random(number).randrange(256) for _ in range(200 + 97 * number)]
    kind = KINDS[number % len(KINDS)]
    tokens: list[int] = []
    sampling = {"max_tokens": TOKENS, "ignore_eos": "json_object" not in kind.sampling, **kind.sampling}
    async for reply in client.generate(token_ids=prompt, request_id=f"{tag}-{number}", **sampling):
        assert reply.index == len(tokens), "a token was lost or came twice"
        tokens += reply.token_ids
        progress[number] = len(tokens)
    return tokens


@pytest.mark.timeout(180)
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
async def test_streams_survive_their_instance(cluster: Cluster, fault: signal.Signals) -> None:
    await asyncio.to_thread(cluster.await_idle)
    async with AsyncShoalClient([cluster.grpc], key="key-of-ada") as client:
        numbers = range(8)
        want = await asyncio.gather(*[stream(client, n, {}, f"want-{fault}") for n in numbers])
        before = await asyncio.to_thread(cluster.status)
        victim = before.instances[0]
        progress: dict[int, int] = {}
        tasks = [asyncio.create_task(stream(client, n, progress, f"got-{fault}")) for n in numbers]
        while not all(task.done() or progress.get(n, 0) >= 5 for n, task in enumerate(tasks)):
            await asyncio.sleep(0.01)
        os.kill(victim.pid, fault)
        async with asyncio.timeout(20):  # a signal takes effect when its process runs next
            while state_of(victim.pid) not in (("", "Z") if fault is signal.SIGKILL else ("T",)):
                await asyncio.sleep(0.01)
        got = await asyncio.gather(*tasks)
        if fault is signal.SIGSTOP:
            os.kill(victim.pid, signal.SIGCONT)
    assert got == want
    after = await asyncio.to_thread(cluster.await_idle)
    again = next(i for i in after.instances if i.id == victim.id)
    assert (again.pid == victim.pid) == (fault is signal.SIGSTOP)


@pytest.mark.timeout(120)
async def test_clients_that_hang_up_leave_nothing(cluster: Cluster) -> None:
    rng = random.Random(5)
    async with AsyncShoalClient([cluster.grpc], key="key-of-ada") as client:

        async def hang_up(number: int) -> None:
            leave_after = rng.randrange(0, 30)
            replies = client.generate(token_ids=[number % 256] * rng.randrange(1, 600), max_tokens=200, ignore_eos=True)
            try:
                async with asyncio.timeout(rng.random() * 2):
                    async for reply in replies:
                        if reply.index >= leave_after:
                            break
            except TimeoutError:
                pass
            finally:
                await replies.close()

        for _ in range(3):
            await asyncio.gather(*[hang_up(n) for n in range(16)])
    await asyncio.to_thread(cluster.await_idle)
