"""`shoal batch`: OpenAI's format in and out, no more in flight than the cluster takes, and nothing asked twice."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from shoal.cluster.cli.batch import Throttle, answer_all
from shoal.cluster.cli.batch_file import answered, left_over, read_requests
from shoal.proto.errors import InvalidArgument
from tests.tools.mini_cluster import MiniCluster, eventually
from tests.tools.web import serving


def line(name: str, prompt: str = "x", **changes: Any) -> str:
    body = {"model": "m", "prompt": prompt, "max_tokens": 3}
    return json.dumps({"custom_id": name, "method": "POST", "url": "/v1/completions", "body": body} | changes)


def test_requests_that_share_a_prefix_follow_each_other(tmp_path):
    file = tmp_path / "f.jsonl"
    prompts = {"a": "say this", "b": "do that", "c": "say", "d": "do"}
    file.write_text("\n".join(line(name, prompt) for name, prompt in prompts.items()) + "\n\n")
    assert [request.custom_id for request in read_requests(file)] == ["b", "d", "a", "c"]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("{", "line 2: must be an object with custom_id"),
        (line("b", url="/v1/embeddings"), "line 2: url: must be POST to one of"),
        (line("b", body={"stream": True}), "line 2: body"),
        (line("a"), "line 2: custom_id: must be given once, given 'a'"),
    ],
)
def test_the_first_wrong_line_is_named_and_nothing_is_sent(tmp_path, bad, said):
    file = tmp_path / "f.jsonl"
    file.write_text(f"{line('a')}\n{bad}\n")
    with pytest.raises(InvalidArgument, match=said):
        read_requests(file)


def test_what_is_answered_already_is_left_out(tmp_path):
    file, out = tmp_path / "f.jsonl", tmp_path / "out.jsonl"
    file.write_text("\n".join(line(name) for name in "abc"))
    out.write_text('{"custom_id": "b", "response": {}}\n{"custom_id": "c", "resp')
    assert [request.custom_id for request in left_over(read_requests(file), answered(out))] == ["a", "c"]


def test_in_flight_grows_by_one_a_round_and_halves_when_full():
    throttle = Throttle(most=6)
    for _ in range(5):
        throttle.took()
    assert throttle.in_flight == 5
    for _ in range(50):
        throttle.took()
    assert throttle.in_flight == 6
    throttle.full()
    assert throttle.in_flight == 3
    for _ in range(9):
        throttle.full()
    assert throttle.in_flight == 1


class Server:
    """Takes `room` at once, says 429 to others, fails prompts that say so."""

    def __init__(self) -> None:
        self.room, self.running, self.most, self.seen, self.full = 6, 0, 0, list[str](), 0
        self.url, self.classes = "", set[str]()

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.classes.add(request.headers["x-shoal-class"])
        if self.running >= self.room:
            self.full += 1
            return web.json_response({}, status=429, headers={"retry-after": "0"})
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.02 if body["prompt"] != "endless" else 60)
        self.running -= 1
        self.seen.append(body["prompt"])
        status = 400 if body["prompt"] == "wrong" else 200
        return web.json_response({"echo": body["prompt"]}, status=status, headers={"x-shoal-request": "r"})


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    fake, app = Server(), web.Application()
    app.router.add_post("/v1/completions", fake.answer)
    async with serving(app) as fake.url:
        yield fake


async def ask(server: Server, tmp_path, prompts: list[str], timeout_s: float = 30.0) -> tuple[list[Any], list[Any]]:
    file, out = tmp_path / "f.jsonl", io.StringIO()
    file.write_text("\n".join(line(f"n{n}", prompt) for n, prompt in enumerate(prompts)))
    failed = await answer_all(server.url, "", read_requests(file), out, most=32, timeout_s=timeout_s)
    return [json.loads(each) for each in out.getvalue().splitlines()], [json.loads(each) for each in failed]


async def test_a_full_cluster_is_asked_again_until_all_are_answered_once(server, tmp_path):
    prompts = [f"p{n:03}" for n in range(120)]
    answers, failed = await ask(server, tmp_path, prompts)
    assert not failed and sorted(server.seen) == prompts and server.classes == {"offline"}
    assert server.full and server.most == server.room
    assert {a["custom_id"]: a["response"]["body"]["echo"] for a in answers} == {
        f"n{n}": prompt for n, prompt in enumerate(prompts)
    }
    assert answers[0]["response"]["status_code"] == 200 and answers[0]["error"] is None


async def test_what_fails_or_expires_is_told_apart_from_answers(server, tmp_path):
    answers, failed = await ask(server, tmp_path, ["fine", "wrong", "endless"], timeout_s=2.0)
    assert [a["custom_id"] for a in answers] == ["n0"]
    found = {f["custom_id"]: (f["response"] and f["response"]["status_code"]) or f["error"]["code"] for f in failed}
    assert found == {"n1": 400, "n2": "batch_expired"}


async def test_offline_work_waits_in_the_frontend_while_anybody_waits_at_the_instance():
    async with MiniCluster(1) as cluster:
        frontend = await cluster.frontend()
        tickets, instance = frontend.dispatcher.journal.tickets, cluster.instances["i0"]
        instance.may_step.clear()
        online = asyncio.create_task(frontend.run("online", [1], 8))
        await eventually(lambda: "online" in tickets and tickets["online"].owner == "i0")
        offline = asyncio.create_task(frontend.run("offline", [2], 8, offline=True, priority=9))
        await eventually(lambda: frontend.dispatcher.admission.queued_requests == 1)
        assert tickets["offline"].owner is None
        instance.may_step.set()
        for run in (online, offline):
            seen = await run
            assert len(seen.tokens) == 8 and seen.tokens == seen.expected()
        frontend.check_empty()
