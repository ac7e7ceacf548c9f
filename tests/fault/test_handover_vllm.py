"""Prefill and decode apart on real engines in processes of their own: every stream is that of one instance, whoever of
the two dies in the middle.
"""

import asyncio
from collections import Counter
from random import Random

import pytest

from shoal.proto.codec import FINISH_LENGTH
from shoal.proto.v1 import instance_pb2 as pb
from shoal.router.contract import Role
from shoal.router.view import Standing
from tests.tools.mini_cluster import VOCABULARY, eventually
from tests.tools.trio import Watch, vllm_trio

pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.timeout(900)]
PREFILL, DECODE, ALONE = "i0", "i1", "i2"
ENDS = ["departure.copy", "departure.prepare", "arrival.hold"]
CHUNK = {"max_num_batched_tokens": 256}
CASES, AT_ONCE = 300, 6


async def arrange(trio, *, apart):
    """Who gets requests: prefill and decode instance, or the one that serves alone."""
    view = trio.frontend.dispatcher.view
    view.split_from_tokens = 2
    roles = {PREFILL: Role.PREFILL.value, DECODE: Role.DECODE.value, ALONE: Role.MIXED.value}
    trio.wanted = {name: (role, "ready" if (name != ALONE) == apart else "draining") for name, role in roles.items()}
    await trio.publish()
    serving = {PREFILL, DECODE} if apart else {ALONE}
    await eventually(lambda: {name for name, one in view._standings.items() if one is Standing.READY} == serving)
    addresses = {name: f"127.0.0.1:{proxy.port}" for name, proxy in trio.proxies.items()}
    for planner in trio.planners.values():
        planner.send(pb.Up(peers=pb.Peers(addresses=addresses)))


def case(rng):
    """Prompt, sampling, number of tokens."""
    tokens = rng.choice([2, 31, 32, 33, 256, 257, rng.randint(2, 1900)])
    greedy, seeded = {"temperature": 0.0}, {"seed": rng.randrange(1000), "presence_penalty": 0.5}
    prompt = [rng.randrange(VOCABULARY) for _ in range(tokens)]
    return prompt, {"ignore_eos": True, **rng.choice([greedy, seeded])}, rng.randint(8, 100)


async def run(trio, request_id, case):
    prompt, sampling, tokens = case
    trio.frontend.sampling = sampling  # it is read before anybody else has a turn
    reply = await trio.frontend.run(request_id, prompt, tokens)
    assert (reply.finish_reason, reply.error, len(reply.tokens)) == (FINISH_LENGTH, None, tokens), request_id
    return reply.tokens


async def all_of(trio, name, cases):
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number, case):
        async with gate:
            return await run(trio, f"{name}-{number}", case)

    return await asyncio.gather(*(one(number, case) for number, case in enumerate(cases)))


async def test_prefill_here_and_decode_there_say_what_one_instance_says_in_300_random_cases(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rng = Random(300)
    cases = [case(rng) for _ in range(CASES)]
    async with vllm_trio(**CHUNK) as trio:
        await arrange(trio, apart=False)
        alone = await all_of(trio, "alone", cases)
        await arrange(trio, apart=True)
        apart = await all_of(trio, "apart", cases)
        differ = [n for n, (mine, other) in enumerate(zip(apart, alone, strict=True)) if mine != other]
        handed_over = trio.frontend.dispatcher.handovers.counts.committed["disaggregate"]
        frames = [frame for _, frame in trio.frontend.frames]
        endings = Counter(frame.moved.outcome for frame in frames if frame.WhichOneof("frame") == "moved")
        print(f"{CASES} cases, {handed_over} handed over, {len(differ)} differ; moves ended {dict(endings)}")
        assert differ == []
        assert handed_over > 0.9 * CASES
        assert trio.frontend.dispatcher.ledgers.pairs.planned == {}
        trio.frontend.check_empty()


@pytest.mark.parametrize("point", ENDS)
async def test_the_end_of_either_side_in_the_middle_costs_no_token(point, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rng = Random(point)
    async with vllm_trio(point, **CHUNK) as trio:
        watch = Watch(trio.frontend)
        for victim in (PREFILL, DECODE):
            one = [rng.randrange(VOCABULARY) for _ in range(1200)], {"temperature": 0.0, "ignore_eos": True}, 100
            await arrange(trio, apart=False)
            alone = await run(trio, f"alone-{victim}", one)
            await arrange(trio, apart=True)
            request_id = f"apart-{victim}"
            running = asyncio.create_task(run(trio, request_id, one))
            await eventually(lambda request_id=request_id: request_id in trio.frontend.replies)
            if point != "departure.copy":  # that is there while the prompt is computed
                await trio.frontend.replies[request_id].wait_tokens(1)
            await asyncio.sleep(0.3)
            said = len(watch.times_s[request_id])
            await trio.strike(victim, PREFILL, DECODE)
            assert await running == alone
            print(f"{point}: {victim} ended after {said} outputs; all {len(alone)} tokens came")
            assert said < 50, "it was not in the middle"
            await trio.mend()
            trio.frontend.check_empty()
