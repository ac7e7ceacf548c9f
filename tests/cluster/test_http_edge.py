"""Nothing reaches the application that is not on the list, too large, or nobody's; and what went wrong before the first
byte is said as an HTTP status, streaming or not.
"""

import json

import pytest

from shoal.cluster.http_edge import OPEN_ROUTES, HttpEdge
from shoal.cluster.request_context import current_request
from shoal.cluster.tenants import Tenants
from shoal.proto.config import ClusterConfig
from shoal.proto.errors import Overloaded, Quarantined, Unavailable
from shoal.proto.limits import LimitsConfig
from shoal.router.tenant_limits import TenantLimits

LIMITS = LimitsConfig(body_bytes=100, header_bytes=1000)
ROUTE = ("POST", "/v1/completions")


class Application:
    """Reads the body, then does as told: sends `parts`, or what `act` does with (receive, send)."""

    def __init__(self, parts=(b"ok",), act=None):
        self.parts, self.act, self.bodies, self.contexts, self.calls = parts, act, [], [], 0

    async def __call__(self, scope, receive, send):
        self.calls += 1
        self.contexts.append(current_request.get())
        if self.act is not None:
            return await self.act(scope, receive, send)
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.bodies.append(body)
        await begin(send)
        for n, part in enumerate(self.parts):
            await send({"type": "http.response.body", "body": part, "more_body": n < len(self.parts) - 1})
        return None


async def begin(send, status=200):
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": status, "headers": headers})


class Answer:
    def __init__(self, sent):
        self.sent = sent
        (start,) = [message for message in sent if message["type"] == "http.response.start"]
        assert sent[0] is start
        self.status, self.headers = start["status"], {k.decode(): v.decode() for k, v in start["headers"]}
        self.body = b"".join(message["body"] for message in sent[1:])

    @property
    def error(self):
        return json.loads(self.body)["error"]


async def ask(
    app, method="POST", path="/v1/completions", headers=(), chunks=(b"{}",), keys=None, limits=LIMITS, edge=None
):
    sent, left = [], list(chunks)

    async def receive():
        if not left:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(k.encode(), v.encode("latin-1")) for k, v in headers],
    }
    await (edge or HttpEdge(app, Tenants(keys, "s").authenticate, limits))(scope, receive, send)
    return Answer(sent)


# -- which routes


@pytest.mark.parametrize(("method", "path"), sorted(OPEN_ROUTES))
async def test_open_routes_reach_the_application(method, path):
    app = Application()
    assert (await ask(app, method, path)).body == b"ok"
    assert app.calls == 1


CLOSED = [
    ("GET", "/"),
    ("GET", "/metrics"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("GET", "/load"),
    ("GET", "/server_info"),
    ("POST", "/pause"),
    ("POST", "/sleep"),
    ("POST", "/invocations"),
    ("POST", "/collective_rpc"),
    ("POST", "/reset_prefix_cache"),
    ("POST", "/update_weights"),
    ("POST", "/v1/load_lora_adapter"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/audio/transcriptions"),
    ("GET", "/v1/completions"),
    ("POST", "/v1/models"),
    ("OPTIONS", "/v1/completions"),
    ("HEAD", "/health"),
    ("POST", "/v1/completions/"),
    ("POST", "//v1/completions"),
    ("POST", "/V1/completions"),
    ("POST", "/v1/../v1/completions"),
    ("POST", "/v1/completions\x00"),
    ("GET", "/v1/models/x"),
]


@pytest.mark.parametrize(("method", "path"), CLOSED)
async def test_everything_else_is_not_there(method, path):
    app = Application()
    answer = await ask(app, method, path)
    assert (answer.status, answer.error["type"], app.calls) == (404, "NotFound", 0)


async def test_a_websocket_is_closed_and_lifespan_passes():
    app = Application(act=lambda scope, receive, send: send({"type": scope["type"]}))
    edge = HttpEdge(app, Tenants(None, "s").authenticate, LIMITS)
    sent = []

    async def send(message):
        sent.append(message["type"])

    await edge({"type": "websocket", "path": "/v1/realtime", "headers": []}, None, send)
    await edge({"type": "lifespan"}, None, send)
    assert sent == ["websocket.close", "lifespan"]


# -- who asks


@pytest.mark.parametrize("headers", [[], [("authorization", "Bearer wrong")], [("x-api-key", "wrong")]])
async def test_without_a_right_key_nobody_gets_in(headers):
    app = Application()
    answer = await ask(app, headers=headers, keys={"k": "t"})
    assert (answer.status, answer.headers["www-authenticate"], app.calls) == (401, "Bearer", 0)


@pytest.mark.parametrize("header", [("authorization", "Bearer k"), ("x-api-key", "k")])
async def test_a_key_brings_its_tenant_and_each_request_its_own_context(header):
    app = Application()
    for _ in range(2):
        answer = await ask(app, headers=[header], keys={"k": "t"})
        assert answer.headers["x-shoal-request"] == app.contexts[-1].request_id
    assert [c.tenant for c in app.contexts] == ["t", "t"]
    assert app.contexts[0].request_id != app.contexts[1].request_id
    assert current_request.get() is None


@pytest.mark.parametrize("path", ["/health", "/ping"])
async def test_health_needs_no_key(path):
    assert (await ask(Application(), "GET", path, keys={"k": "t"})).status == 200


# -- how much


async def test_a_body_of_the_limit_passes_and_one_byte_more_is_refused_by_its_length():
    app, whole = Application(), b'{"a":"%s"}' % (b"x" * 92)
    assert (await ask(app, headers=[("content-length", "100")], chunks=[whole])).status == 200
    answer = await ask(app, headers=[("content-length", "101")], chunks=[b"x" * 101])
    assert (answer.status, app.calls) == (413, 1)
    assert "at most 100 bytes, given 101" in answer.error["message"]


@pytest.mark.parametrize("length", [None, "5", "-1", "1e3", "\xb2"])
async def test_a_body_that_lies_about_its_length_or_has_none_is_cut_off_at_the_limit(length):
    app = Application()
    headers = [] if length is None else [("content-length", length)]
    answer = await ask(app, headers=headers, chunks=[b"x" * 60, b"x" * 41, b"x" * 9999])
    assert (answer.status, app.bodies) == (413, [])


async def test_what_a_body_may_not_ask_for_never_reaches_the_application():
    app = Application()
    answer = await ask(app, chunks=[b'{"n": ', b"1000000000}"])
    assert (answer.status, answer.error["param"], app.calls) == (400, "n", 0)


async def test_a_tenant_over_its_rate_is_told_when_to_come_again_and_others_are_not():
    keys, now_s = {"k": "ada", "l": "bob"}, [0.0]
    limits = TenantLimits(ClusterConfig(tenants={"ada": {"requests_per_s": 0.5, "burst": 1}}))
    edge = HttpEdge(Application(), Tenants(keys, "s").authenticate, LIMITS, limits, lambda: now_s[0])

    async def status(key):
        return await ask(edge.app, headers=[("authorization", f"Bearer {key}")], edge=edge)

    assert (await status("k")).status == 200
    refused = await status("k")
    assert (refused.status, refused.headers["retry-after"]) == (429, "2")
    assert [(await status("l")).status for _ in range(3)] == [200] * 3
    now_s[0] = 2.0
    assert (await status("k")).status == 200


async def test_a_tenants_place_is_free_again_however_its_request_ends():
    async def act(scope, receive, send):
        raise KeyError("mine")

    limits = TenantLimits(ClusterConfig(tenants={"*": {"concurrent": 1}}))
    edge = HttpEdge(Application(act=act), Tenants(None, "s").authenticate, LIMITS, limits)
    for _ in range(2):
        with pytest.raises(KeyError):
            await ask(edge.app, edge=edge)
    edge.app = Application()
    assert (await ask(edge.app, edge=edge)).status == 200
    limits.enter("default", 0.0)
    assert (await ask(edge.app, edge=edge)).status == 429


async def test_an_application_that_fails_for_its_own_reasons_fails():
    async def act(scope, receive, send):
        raise KeyError("mine")

    with pytest.raises(KeyError):
        await ask(Application(act=act))


async def test_large_headers_are_refused():
    app = Application()
    answer = await ask(app, headers=[(f"x-{n}", "v" * 100) for n in range(10)])
    assert (answer.status, answer.error["param"], app.calls) == (400, "headers", 0)
    assert "at most 1000 bytes, given 1030" in answer.error["message"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("x-shoal-priority", v) for v in ("high", "", "nan", "inf", str(2**31), "1,2")],
        *[("x-shoal-deadline", v) for v in ("soon", "-1", "nan", "86401", "inf")],
        *[("x-shoal-program", v) for v in ("a b", "p" * 129)],
        ("x-shoal-class", "batch"),
    ],
)
async def test_a_header_of_ours_with_an_impossible_value_is_named(name, value):
    app = Application()
    answer = await ask(app, headers=[(name, value)])
    assert (answer.status, answer.error["param"], app.calls) == (400, name, 0)
    assert name in answer.error["message"] and repr(value[:40]) in answer.error["message"]


async def test_priority_and_deadline_reach_the_request():
    app = Application()
    await ask(app, headers=[("x-shoal-priority", "-3"), ("x-shoal-deadline", "2.5")])
    await ask(app)
    assert [(c.priority, c.deadline_s) for c in app.contexts] == [(-3, 2.5), (0, 0)]


async def test_program_and_class_reach_the_request():
    app = Application()
    await ask(app, headers=[("x-shoal-program", "build/7"), ("x-shoal-class", "offline")])
    await ask(app)
    assert [(c.program, c.offline) for c in app.contexts] == [("build/7", True), ("", False)]


# -- what went wrong before the first byte


ERRORS = [
    (Overloaded("full", retry_after_s=0.2), 429, "1"),
    (Unavailable("nobody", retry_after_s=4.1), 503, "5"),
    (Quarantined("poison"), 422, None),
]


@pytest.mark.parametrize(("error", "status", "retry_after"), ERRORS)
@pytest.mark.parametrize(
    "parts", [[b"data: {}\n\n", b"data: [DONE]\n\n"], [b'{"error": "EngineGenerateError"}'], [b""]]
)
async def test_an_error_before_the_first_byte_becomes_the_answer(error, status, retry_after, parts):
    async def act(scope, receive, send):
        await begin(send)
        current_request.get().error = error
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    app = Application(act=act)
    answer = await ask(app)
    assert (answer.status, answer.headers.get("retry-after")) == (status, retry_after)
    assert answer.error == {"message": str(error), "type": type(error).__name__, "param": None, "code": status}
    assert answer.headers["x-shoal-request"] == app.contexts[0].request_id
    assert len(answer.sent) == 2


async def test_an_error_that_the_application_lets_through_becomes_the_answer_too():
    async def act(scope, receive, send):
        current_request.get().error = ERRORS[0][0]
        raise ERRORS[0][0]

    assert (await ask(Application(act=act))).status == 429


async def test_an_error_after_the_first_byte_is_the_applications_to_say():
    async def act(scope, receive, send):
        await begin(send)
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        current_request.get().error = ERRORS[0][0]
        await send({"type": "http.response.body", "body": b"b"})

    answer = await ask(Application(act=act))
    assert (answer.status, answer.body) == (200, b"ab")


async def test_a_response_names_its_request_and_the_instance_that_gave_the_first_token():
    async def act(scope, receive, send):
        await begin(send)
        current_request.get().instance = "i3"
        await send({"type": "http.response.body", "body": b"token"})

    answer = await ask(Application(act=act))
    assert answer.headers["x-shoal-instance"] == "i3" and answer.headers["content-type"] == "text/plain"
    assert "x-shoal-instance" not in (await ask(Application())).headers


@pytest.mark.parametrize("theirs", ["", "a b", "x" * 129, "http://10.0.0.1:5557"])
async def test_a_clients_name_for_its_request_is_short_and_plain(theirs):
    answer = await ask(Application(), headers=[("x-request-id", theirs)])
    assert (answer.status, answer.error["param"]) == (400, "x-request-id")


@pytest.mark.parametrize("theirs", [None, "abc-1"])
async def test_the_application_names_a_request_as_the_response_does_unless_its_client_did(theirs):
    seen = []

    async def application(scope, receive, send):
        seen.append([value.decode() for key, value in scope["headers"] if key == b"x-request-id"])
        await begin(send)
        await send({"type": "http.response.body", "body": b"ok"})

    answer = await ask(application, headers=[("x-request-id", theirs)] if theirs else [])
    assert seen == [[theirs or answer.headers["x-shoal-request"]]]


async def test_a_client_that_leaves_is_seen_by_the_application():
    seen = []

    async def act(scope, receive, send):
        seen.extend([(await receive())["type"], (await receive())["type"]])
        await begin(send)
        await send({"type": "http.response.body", "body": b""})

    await ask(Application(act=act))
    assert seen == ["http.request", "http.disconnect"]
