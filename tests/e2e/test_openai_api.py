"""What OpenAI's and Anthropic's clients see: real bytes through real vLLM, in every form that the API offers."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from tests.e2e.conftest import Cluster

HELLO = [{"role": "user", "content": "Hello"}]
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "answer", "parameters": SCHEMA, "strict": True}}


def post(cluster: Cluster, path: str, body: dict | bytes, key: str = "key-of-ada", **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = {"content-type": "application/json", "authorization": f"Bearer {key}", **headers}
    return httpx.post(f"{cluster.url}{path}", content=content, headers=head, timeout=60)


def test_a_chat_streams_the_same_words_that_it_gives_at_once(cluster: Cluster) -> None:
    client = cluster.openai()
    ask = {"model": "tiny", "messages": HELLO, "max_tokens": 24, "temperature": 0}
    whole = client.chat.completions.create(**ask)
    stream = client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True})
    parts = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in parts if c.choices) == whole.choices[0].message.content
    assert parts[-1].usage.completion_tokens == whole.usage.completion_tokens == 24


def test_a_completion_streams_and_counts(cluster: Cluster) -> None:
    ask = {"model": "tiny", "prompt": "once upon a time", "max_tokens": 16, "temperature": 0}
    whole = cluster.openai().completions.create(**ask)
    parts = list(cluster.openai().completions.create(**ask, stream=True))
    assert "".join(c.choices[0].text for c in parts) == whole.choices[0].text
    assert whole.usage.completion_tokens == 16


def test_several_choices_with_logprobs(cluster: Cluster) -> None:
    reply = cluster.openai().chat.completions.create(
        model="tiny", messages=HELLO, n=3, seed=5, max_tokens=4, logprobs=True, top_logprobs=2
    )
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert all(len(t.top_logprobs) == 2 for choice in reply.choices for t in choice.logprobs.content)


def test_a_stop_string_ends_the_text_before_it(cluster: Cluster) -> None:
    reply = cluster.openai().completions.create(
        model="tiny", prompt="abc", max_tokens=2000, temperature=1, seed=1, stop=["e"]
    )
    assert reply.choices[0].finish_reason == "stop"
    assert "e" not in reply.choices[0].text


def test_structured_output_obeys_its_schema(cluster: Cluster) -> None:
    reply = cluster.openai().chat.completions.create(
        model="tiny",
        messages=HELLO,
        max_tokens=400,
        seed=3,
        response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}},
    )
    assert isinstance(json.loads(reply.choices[0].message.content)["ok"], bool)


def test_a_named_tool_is_called_with_arguments_of_its_schema(cluster: Cluster) -> None:
    reply = cluster.openai().chat.completions.create(
        model="tiny",
        messages=HELLO,
        max_tokens=400,
        seed=4,
        tools=[TOOL],
        tool_choice={"type": "function", "function": {"name": "answer"}},
    )
    call = reply.choices[0].message.tool_calls[0].function
    assert call.name == "answer" and isinstance(json.loads(call.arguments)["ok"], bool)


def test_responses_anthropic_messages_and_tokenize_answer(cluster: Cluster) -> None:
    assert cluster.openai().responses.create(model="tiny", input="hi", max_output_tokens=5).output
    anthropic = post(cluster, "/v1/messages", {"model": "tiny", "max_tokens": 5, "messages": HELLO})
    assert anthropic.status_code == 200 and anthropic.json()["usage"]["output_tokens"] == 5
    tokens = post(cluster, "/tokenize", {"model": "tiny", "prompt": "hello"}).json()["tokens"]
    assert post(cluster, "/detokenize", {"model": "tiny", "tokens": tokens}).json()["prompt"] == "hello"


def test_an_adapter_is_a_model_of_its_own(cluster: Cluster) -> None:
    client = cluster.openai()
    ask = {"prompt": "once upon a time", "max_tokens": 16, "temperature": 0}
    assert {m.id for m in client.models.list()} == {"tiny", "pirate"}
    base = client.completions.create(model="tiny", **ask).choices[0].text
    adapted = client.completions.create(model="pirate", **ask).choices[0].text
    assert adapted != base
    assert client.completions.create(model="pirate", **ask).choices[0].text == adapted


def test_replies_name_request_and_instance(cluster: Cluster) -> None:
    reply = post(cluster, "/v1/completions", {"model": "tiny", "prompt": "x", "max_tokens": 1})
    assert len(reply.headers["x-shoal-request"]) == 32
    assert reply.headers["x-shoal-instance"] in {"i0", "i1"}


@pytest.mark.parametrize("key", ["nothing", "key-of-eve"])
def test_without_a_right_key_nothing_is_served(cluster: Cluster, key: str) -> None:
    reply = post(cluster, "/v1/completions", {"model": "tiny", "prompt": "x"}, key=key)
    assert reply.status_code == 401 and reply.headers["www-authenticate"] == "Bearer"


BAD = {
    "unknown model": ({"model": "nope", "prompt": "x"}, 404, "nope"),
    "negative temperature": ({"model": "tiny", "prompt": "x", "temperature": -1}, 400, "temperature"),
    "top_p": ({"model": "tiny", "prompt": "x", "top_p": 7}, 400, "top_p"),
    "too many choices": ({"model": "tiny", "prompt": "x", "n": 1000}, 400, "n"),
    "too many stops": ({"model": "tiny", "prompt": "x", "stop": [str(i) for i in range(50)]}, 400, "stop"),
    "over-long prompt": ({"model": "tiny", "prompt": [1] * 5000, "max_tokens": 5}, 400, "4096"),
    "token out of range": ({"model": "tiny", "prompt": [10**6], "max_tokens": 5}, 400, ""),
    "empty prompt": ({"model": "tiny", "prompt": [], "max_tokens": 5}, 400, ""),
    "zero max_tokens": ({"model": "tiny", "prompt": "x", "max_tokens": 0}, 400, "max_tokens"),
    "impossible grammar": ({"model": "tiny", "prompt": "x", "structured_outputs": {"grammar": "((("}}, 400, ""),
    "wrong type": ({"model": "tiny", "prompt": "x", "max_tokens": "many"}, 400, "max_tokens"),
    "malformed JSON": (b'{"model":', 400, ""),
    "bad UTF-8": (b'{"model":"tiny","prompt":"\xff\xfe"}', 400, ""),
    "deep nesting": (b'{"model":"tiny","prompt":' + b"[" * 10_000, 400, ""),
    "body over the limit": (b'{"model":"tiny","prompt":"' + b"a" * (1 << 20) + b'"}', 413, "body"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_the_clients_fault_and_reaches_no_engine(cluster: Cluster, case: str) -> None:
    body, status, word = BAD[case]
    reply = post(cluster, "/v1/completions", body)
    assert reply.status_code == status, reply.text
    assert word in reply.text
    assert post(cluster, "/v1/completions", {"model": "tiny", "prompt": "x", "max_tokens": 1}).status_code == 200


@pytest.mark.parametrize("header", [{"x-shoal-priority": "high"}, {"x-shoal-deadline": "-1"}])
def test_headers_of_ours_are_checked(cluster: Cluster, header: dict[str, str]) -> None:
    reply = post(cluster, "/v1/completions", {"model": "tiny", "prompt": "x"}, **header)
    assert reply.status_code == 400 and next(iter(header)) in reply.text


@pytest.mark.parametrize(
    "path", ["/metrics", "/v1/load_lora_adapter", "/invocations", "/inference/v1/generate", "/docs", "/openapi.json"]
)
def test_routes_that_are_not_on_the_list_are_closed(cluster: Cluster, path: str) -> None:
    assert post(cluster, path, {}).status_code == 404
    assert httpx.get(f"{cluster.url}{path}", timeout=10).status_code == 404


def test_many_at_once_all_end(cluster: Cluster) -> None:
    client = cluster.openai()

    def one(n: int) -> int:
        reply = client.completions.create(
            model="tiny", prompt=[n % 250] * 40, max_tokens=20, extra_body={"ignore_eos": True}
        )
        return reply.usage.completion_tokens

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(one, range(48))) == [20] * 48
    cluster.await_idle()


def test_a_wrong_key_raises_the_official_clients_own_error(cluster: Cluster) -> None:
    with pytest.raises(openai.AuthenticationError):
        cluster.openai("wrong").models.list()
