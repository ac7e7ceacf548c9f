"""A whole frontend, vLLM's application over our engine client, in front of fake instances: what the official clients
see, what two frontends count together, and what is left of a stream when its frontend is killed.
"""

import asyncio
import io
import json
import logging
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import openai
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families
from transformers import AutoTokenizer

from shoal.cluster.client import AsyncShoalClient, CallFailed
from shoal.cluster.frontend import Frontend, FrontendPlan
from shoal.cluster.frontend_metrics import OF_THE_ENGINE
from shoal.cluster.http_edge import OPEN_ROUTES
from shoal.cluster.journal import Outcome
from shoal.cluster.ports import free_port
from shoal.instance.engine_factory import resolve_model
from shoal.instance.fake_tokens import reply
from shoal.proto.config import ClusterConfig
from shoal.proto.security import TenantConfig
from shoal.router.view import Standing
from tests.tools.mini_cluster import TOKEN, MiniCluster, eventually, settled

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

POISON = 199
ROOT = Path(__file__).parents[2]
SECOND = """
import asyncio, sys
from shoal.cluster.frontend import Frontend, FrontendPlan
from shoal.proto.config import ClusterConfig

async def main(config, token, controller):
    frontend = Frontend(FrontendPlan(ClusterConfig.model_validate_json(config), "f1", token, "s", lambda: controller))
    await frontend.start()
    print("ready", frontend.watch.frontend.metrics, flush=True)
    await asyncio.to_thread(sys.stdin.read)

asyncio.run(main(*sys.argv[1:]))
"""


def config(**changes):
    return ClusterConfig(
        model="tiny",
        http_port=free_port("127.0.0.1"),
        grpc_port=free_port("127.0.0.1"),
        keys={"key-a": "alice", "key-b": "bob"},
        engine={"kind": "fake", "max_model_len": 2048, "dtype": "float32"},
        fake={"a_ms": 5, "b_ms": 0, "c_ms": 0, "d_ms": 0, "e_ms": 0, "vocabulary": 256, "poison_token": POISON},
        admission={"no_instance_wait_s": 0.5},
        **changes,
    )


class Whole:
    """Two instances and a frontend of this process, one more of its own, and what this file asked each for."""

    def __init__(self, cluster, frontend, settings, second, second_settings):
        self.cluster, self.frontend, self.settings = cluster, frontend, settings
        self.second, self.second_settings = second, second_settings
        self.url = f"http://127.0.0.1:{settings.http_port}"
        self.tokenizer = AutoTokenizer.from_pretrained(resolve_model(settings))
        self.metrics_url = ""

    def openai(self):
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="key-a", max_retries=0)

    def grpc(self, *settings, key="key-a"):
        return AsyncShoalClient([f"127.0.0.1:{one.grpc_port}" for one in settings or [self.settings]], key=key)

    def http(self, key="key-a"):
        return aiohttp.ClientSession(self.url, headers={"authorization": f"Bearer {key}"})

    async def post(self, path, body, headers=(), key="key-a"):
        what = {"data": io.BytesIO(body)} if isinstance(body, bytes) else {"json": body}
        async with self.http(key) as http, http.post(path, headers=dict(headers), **what) as answer:
            text = await answer.text()
            return Answer(answer.status, answer.headers, json.loads(text) if text.startswith("{") else text)

    def expected(self, prompt, tokens):
        return self.tokenizer.decode(reply(prompt, tokens, 256))

    def outcomes(self):
        return +self.frontend.dispatcher.journal.outcomes

    def steps(self):
        return [life.server.stepper.step for life in self.cluster.lives]

    def blocks(self):
        return {name for life in self.cluster.lives for name in life.server.blocks.cached}

    async def revive(self):
        """Until both serve; one may die meanwhile."""
        async with asyncio.timeout(30):
            while len(self.frontend.dispatcher.links) < 2:
                for name, life in list(self.cluster.instances.items()):
                    if not life.alive:
                        await self.cluster.revive(name)
                await asyncio.sleep(0.02)

    async def second_metrics(self):
        """Address of its metrics, once it serves; every answer but the first is from memory."""
        if not self.metrics_url:
            while not (line := await asyncio.to_thread(self.second.stdout.readline)).startswith("ready"):
                assert line, "the second frontend did not start"
            self.metrics_url = line.split()[1]
            async with self.grpc(self.second_settings) as client:
                async with asyncio.timeout(10):
                    while (await client.get_model()).instances_ready < 2:
                        await asyncio.sleep(0.05)
        return self.metrics_url


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Any
    body: Any


@pytest.fixture(scope="module")
def second_process():
    processes = []
    yield processes
    for process in processes:
        process.kill()
        process.wait(10)
        process.stdin.close()
        process.stdout.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole(second_process):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_MAX_N_SEQUENCES", "16")
        one, two = config(), config()
        async with MiniCluster(2, engine=one.engine, fake=one.fake) as cluster:
            arguments = [two.model_dump_json(exclude={"secret"}), TOKEN, cluster.controller_address]
            process = subprocess.Popen(
                [sys.executable, "-c", SECOND, *arguments],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            second_process.append(process)
            frontend = Frontend(FrontendPlan(one, "f0", TOKEN, "s", lambda: cluster.controller_address))
            await frontend.start()
            await eventually(lambda: len(frontend.dispatcher.links) == 2)
            yield Whole(cluster, frontend, one, process, two)
            await frontend.stop()


async def test_our_warnings_are_heard_whatever_vllms_libraries_think_of_them(whole):
    assert logging.getLogger("shoal.cluster.dispatcher").isEnabledFor(logging.WARNING)


# -- through the official clients


async def test_a_chat_streams_token_by_token(whole):
    messages = [{"role": "user", "content": "hello"}]
    async with whole.openai() as client:
        stream = await client.chat.completions.create(model="tiny", messages=messages, max_tokens=20, stream=True)
        parts = [chunk.choices[0].delta.content async for chunk in stream if chunk.choices]
    prompt = (await whole.post("/tokenize", {"model": "tiny", "messages": messages})).body["tokens"]
    assert "".join(filter(None, parts)) == whole.expected(prompt, 20)
    assert len(parts) > 5


async def test_a_completion_has_its_choices_and_its_usage(whole):
    async with whole.openai() as client:
        answer = await client.completions.create(model="tiny", prompt=[40, 41, 42], max_tokens=9, n=2, temperature=1)
    assert [choice.text for choice in answer.choices] == [whole.expected([40, 41, 42], 9)] * 2
    assert [choice.finish_reason for choice in answer.choices] == ["length"] * 2
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 18)


async def test_a_stop_string_ends_the_text_and_the_work(whole):
    before = whole.outcomes()
    text = whole.expected([50, 51], 400)
    stop = next(text[i : i + 3] for i in range(20, 60) if text[i : i + 3].isascii())
    answer = await whole.post(
        "/v1/completions", {"model": "tiny", "prompt": [50, 51], "max_tokens": 400, "stop": [stop]}
    )
    assert answer.body["choices"][0]["text"] == text[: text.index(stop)]
    assert answer.body["choices"][0]["stop_reason"] == stop
    assert await settled(whole.cluster.check) == []
    assert whole.outcomes() - before == {Outcome.STOP: 1}


async def test_an_answer_names_its_request_and_its_instance(whole):
    answers = [await whole.post("/v1/completions", {"model": "tiny", "prompt": [n]}) for n in (1, 2, 3)]
    assert {answer.headers["x-shoal-instance"] for answer in answers} <= {"i0", "i1"}
    assert len({answer.headers["x-shoal-request"] for answer in answers}) == 3


async def test_grpc_answers_the_same(whole):
    async with whole.grpc() as client:
        answer = await client.generate(token_ids=[40, 41, 42], max_tokens=9).complete()
        model = await client.get_model()
    assert answer.text == whole.expected([40, 41, 42], 9)
    assert answer.choices[0].token_ids == reply([40, 41, 42], 9, 256)
    assert (model.model, model.max_model_len, model.instances_ready) == ("tiny", 2048, 2)
    async with whole.grpc(key="wrong") as client:
        with pytest.raises(CallFailed, match="UNAUTHENTICATED"):
            await client.get_model()


# -- what nobody may ask


REFUSED = {
    "prompt too long": ({"prompt": [1] * 3000}, 400, "2048"),
    "no such model": ({"model": "other"}, 404, "other"),
    "too many choices": ({"n": 17}, 400, "16"),
    "too many stop strings": ({"stop": [f"s{n}" for n in range(17)]}, 400, "at most 16"),
    "impossible temperature": ({"temperature": -1}, 400, "temperature"),
    "penalty out of range": ({"repetition_penalty": 1e-9}, 400, "repetition_penalty"),
    "token out of vocabulary": ({"prompt": [10**9]}, 400, "out of vocabulary"),
    "grammar too large": ({"structured_outputs": {"regex": "a" * 70_000}}, 400, "structured_outputs"),
}


@pytest.mark.parametrize("kind", REFUSED)
async def test_impossible_requests_are_refused_in_words_and_reach_no_engine(whole, kind):
    change, status, words = REFUSED[kind]
    before, steps = whole.outcomes(), whole.steps()
    answer = await whole.post("/v1/completions", {"model": "tiny", "prompt": [1], **change})
    assert answer.status == status, answer.body
    assert words in json.dumps(answer.body["error"])
    assert whole.outcomes() == before and whole.steps() == steps


@pytest.mark.parametrize(
    ("body", "status"), [(b"{", 400), (b'{"model": "\xff\xfe"}', 400), (b"[" * 100_000, 400), (b"x" * (2 << 20), 413)]
)
async def test_bodies_that_are_no_request_are_refused(whole, body, status):
    steps = whole.steps()
    answer = await whole.post("/v1/completions", body)
    assert (answer.status, whole.steps()) == (status, steps)


async def test_every_other_route_that_vllm_mounts_is_closed(whole):
    inner = whole.frontend.app
    while not hasattr(inner, "routes"):  # what the frontend puts around vLLM's application
        inner = inner.app
    mounted = {
        (method, re.sub(r"{[^}]*}", "x", route.path))
        for route in inner.routes
        for method in getattr(route, "methods", None) or ("GET",)
    }
    closed = mounted - OPEN_ROUTES
    assert mounted >= OPEN_ROUTES, "a route on our list that vLLM does not have"
    assert len(closed) > 10
    async with whole.http() as http:
        for method, path in sorted(closed):
            async with http.request(method, path, json={}) as answer:
                assert answer.status == 404, (method, path)


# -- what goes wrong on the way


@pytest.mark.parametrize("stream", [False, True])
async def test_without_instances_the_answer_is_503_with_a_time_to_come_back(whole, stream):
    for life in list(whole.cluster.instances.values()):
        await life.kill()
    await eventually(lambda: not whole.frontend.dispatcher.links)
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "stream": stream}
    answers = [
        await whole.post("/v1/completions", {"model": "tiny", "prompt": [1], "stream": stream}),
        await whole.post("/v1/chat/completions", chat),
    ]
    assert [(a.status, a.body["error"]["type"]) for a in answers] == [(503, "Unavailable")] * 2
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
    async with whole.grpc() as client:
        with pytest.raises(CallFailed, match="UNAVAILABLE"):
            await client.generate(token_ids=[1], timeout_s=1.5).complete()
    await whole.revive()


async def test_a_deadline_of_ones_own_ends_the_wait(whole):
    for name in ("i0", "i1"):
        whole.frontend.dispatcher.set_standing(name, Standing.FENCED)
    answer = await whole.post("/v1/completions", {"model": "tiny", "prompt": [1]}, headers={"x-shoal-deadline": "0.1"})
    for name in ("i0", "i1"):
        whole.frontend.dispatcher.set_standing(name, Standing.READY)
    assert (answer.status, answer.body["error"]["type"]) == (503, "DeadlinePassed")


async def test_a_request_that_waits_for_a_place_can_be_cancelled(whole):
    dispatcher = whole.frontend.dispatcher
    for name in ("i0", "i1"):
        dispatcher.set_standing(name, Standing.FENCED)
    async with whole.grpc() as client:
        stream = client.generate(token_ids=[1], request_id="waits")
        answering = asyncio.create_task(stream.complete())
        await eventually(lambda: dispatcher.admission.queued_requests == 1)
        assert await client.cancel("waits")
        answer = await asyncio.wait_for(answering, 10)
    for name in ("i0", "i1"):
        dispatcher.set_standing(name, Standing.READY)
    assert answer.choices[0].finish_reason == "abort"
    dispatcher.ledgers.check()
    assert not dispatcher.flights


async def test_answers_are_whole_when_an_instance_dies_under_streams(whole):
    async def one(n):
        body = {"model": "tiny", "prompt": [60 + n, 61], "max_tokens": 150, "return_token_ids": True}
        answer = await whole.post("/v1/completions", body)
        assert answer.body["choices"][0]["token_ids"] == reply(body["prompt"], 150, 256)

    runs = [asyncio.create_task(one(n)) for n in range(6)]
    await eventually(lambda: sum(len(f.ticket.delivered) > 10 for f in whole.frontend.dispatcher.flights.values()) == 6)
    moved = whole.frontend.dispatcher.failovers
    await whole.cluster.instances["i0"].kill()
    await asyncio.gather(*runs)
    assert whole.frontend.dispatcher.failovers > moved
    await whole.revive()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # an engine thread dies of it
async def test_a_poison_request_costs_two_instances_and_is_then_refused(whole):
    lives = len(whole.cluster.lives)
    asked = asyncio.create_task(whole.post("/v1/completions", {"model": "tiny", "prompt": [7, POISON], "stream": True}))
    await eventually(lambda: asked.done() or not all(i.alive for i in whole.cluster.instances.values()))
    await whole.revive()
    first = await asked
    again = await whole.post("/v1/completions", {"model": "tiny", "prompt": [7, POISON], "seed": None})
    assert [a.status for a in (first, again)] == [422, 422]
    assert "retry-after" not in first.headers
    await whole.revive()
    assert len(whole.cluster.lives) - lives == 2


async def test_a_client_that_hangs_up_frees_everything(whole):
    before = whole.outcomes()
    async with whole.http() as http:
        body = {"model": "tiny", "prompt": [9], "max_tokens": 2000, "stream": True}
        async with http.post("/v1/completions", json=body) as answer:
            await answer.content.readline()
    assert await settled(whole.cluster.check) == []
    await eventually(lambda: not whole.frontend.dispatcher.flights)
    assert whole.outcomes() - before == {Outcome.ABORTED: 1}


# -- what a client may not make us do


async def test_no_address_that_a_client_names_is_visited(whole):
    """In no kind of part of any API, whatever the answer."""
    visits = []
    canary = await asyncio.start_server(lambda _, writer: (visits.append(1), writer.close()), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{canary.sockets[0].getsockname()[1]}/x"
    media = [{"type": kind, kind: {"url": url}} for kind in ("image_url", "video_url", "audio_url")]
    for where in (url, "file:///etc/hostname"):
        parts = [*media, {"type": "image_url", "image_url": {"url": where}}]
        for part in parts:
            content = [{"type": "text", "text": "x"}, part]
            answer = await whole.post(
                "/v1/chat/completions", {"model": "tiny", "messages": [{"role": "user", "content": content}]}
            )
            assert answer.status == 400, (part, answer)
    for part in ({"type": "input_image", "image_url": url}, {"type": "input_file", "file_url": url}):
        body = {"model": "tiny", "input": [{"role": "user", "content": [part]}], "max_output_tokens": 1}
        assert (await whole.post("/v1/responses", body)).status >= 400
    source = {"type": "image", "source": {"type": "url", "url": url}}
    body = {"model": "tiny", "max_tokens": 1, "messages": [{"role": "user", "content": [source]}]}
    assert (await whole.post("/v1/messages", body)).status >= 400
    canary.close()
    await canary.wait_closed()
    assert visits == []


async def test_a_client_gets_no_better_priority_than_its_tenant_may_have(whole, monkeypatch):
    """Neither by a field of the body nor by a header."""
    seen, limits, dispatcher = [], whole.frontend.limits, whole.frontend.dispatcher
    submit = dispatcher.submit
    settings = whole.settings.model_copy(update={"tenants": {"alice": TenantConfig(best_priority=0)}})
    monkeypatch.setattr(limits, "_config", settings)

    def noted(ticket, context):
        seen.append(ticket.route.priority)
        return submit(ticket, context)

    monkeypatch.setattr(dispatcher, "submit", noted)
    for key in ("key-a", "key-b"):
        body = {"model": "tiny", "prompt": [1, 2], "max_tokens": 1}
        await whole.post("/v1/completions", {**body, "priority": -7}, key=key)
        await whole.post("/v1/completions", body, headers={"x-shoal-priority": "-7"}, key=key)
    assert seen == [0, 0, -7, -7]


# -- tenants


async def test_no_block_of_one_tenant_is_found_by_another_whatever_salt_it_sends(whole):
    """P4. Blocks are named by content and salt: what is not reused appears under another name."""
    prompt = list(range(90, 190))

    async def new_blocks(key, **fields):
        known = whole.blocks()
        await whole.post("/v1/completions", {"model": "tiny", "prompt": prompt, "max_tokens": 1, **fields}, key=key)
        await asyncio.sleep(0.1)
        return len(whole.blocks() - known)

    assert await new_blocks("key-a") == len(prompt) // 32
    assert await new_blocks("key-a") == 0
    assert await new_blocks("key-a", cache_salt="of my own") == 0
    assert await new_blocks("key-b") == len(prompt) // 32
    assert await new_blocks("key-b", cache_salt=whole.frontend.client.tenants.salt("alice", "tiny")) == 0


# -- two frontends


async def test_two_frontends_together_count_each_request_once(whole):
    pages = [whole.frontend.watch.frontend.metrics, await whole.second_metrics()]
    before = await counted(pages)
    async with whole.grpc() as one, whole.grpc(whole.second_settings) as two:
        for client, requests in ((one, 3), (two, 5)):
            for n in range(requests):
                await client.generate(token_ids=[n], max_tokens=4).complete()
        left = two.generate(token_ids=[9], max_tokens=2000)
        await anext(left)
        await left.close()
        await eventually_counted(pages, before, {"length": 8, "aborted": 1})


async def counted(pages):
    """Sums over the pages: outcome -> requests. Each page names its own frontend and no engine's gauges."""
    sums = Counter()
    async with aiohttp.ClientSession() as http:
        for page in pages:
            async with http.get(page) as answer:
                families = list(text_string_to_metric_families(await answer.text()))
            samples = [s for family in families for s in family.samples]
            assert not [s.name for s in samples if s.name.startswith(OF_THE_ENGINE)]
            mine = [s for s in samples if s.name == "shoal_frontend_requests_total"]
            assert len({s.labels["frontend"] for s in mine}) == 1
            assert any(s.name == "vllm:generation_tokens_total" for s in samples)
            for sample in mine:
                sums[sample.labels["outcome"]] += int(sample.value)
    return sums


async def eventually_counted(pages, before, truth):
    async with asyncio.timeout(10):
        while (sums := await counted(pages) - before) != truth:
            await asyncio.sleep(0.05)
    assert sums == truth


async def test_a_killed_frontends_stream_goes_on_through_another_without_a_gap(whole):
    """The last test of this file: the second frontend dies of it."""
    await whole.second_metrics()
    async with whole.grpc() as client:
        undisturbed = await client.generate(token_ids=[70, 71], max_tokens=200).complete()
    async with whole.grpc(whole.second_settings, whole.settings) as client:
        client._rng = First()
        stream = client.generate(token_ids=[70, 71], max_tokens=200, request_id="goes-on", timeout_s=60)
        replies = []
        async for answer in stream:
            replies.append(answer)
            if len(replies) == 20:
                whole.second.kill()
    tokens = [token for answer in replies for token in answer.token_ids]
    assert tokens == reply([70, 71], 200, 256)
    assert "".join(answer.text for answer in replies) == undisturbed.text
    assert [answer.finish_reason for answer in replies if answer.finish_reason] == ["length"]
    assert whole.second.wait(10) == -9
    assert whole.outcomes()[Outcome.LENGTH] and not whole.frontend.dispatcher.flights
    assert await settled(whole.cluster.check) == []


class First(Random):
    """Begins at the first address."""

    def randrange(self, *_):
        return 0
