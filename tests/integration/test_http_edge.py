import asyncio
import re
from datetime import timedelta

import pytest
from integration.asgi import ORG, served, with_client
from litestar import get

from memtrace_core.model import Permission
from memtrace_http import HttpOptions
from memtrace_http import requests as requests_module
from memtrace_http.requests import MAX_BODY_BYTES, MAX_DRAINED_BYTES

MEMORY = {"agent_id": "ada", "content": "hello"}


@pytest.mark.parametrize("given", ["req-1", "A.b_c-9", "x" * 128])
def test_a_sane_request_id_is_echoed(given):
    """A caller's own request id comes back, in the header and in an error's body."""

    @with_client()
    async def answers(client):
        headers = {"x-request-id": given}
        return await client.get("/health", headers=headers), await client.get("/nowhere", headers=headers)

    good, bad = answers
    assert good.headers["x-request-id"] == given
    assert bad.headers["x-request-id"] == bad.json["request_id"] == given


@pytest.mark.parametrize("given", ["", " ", "a b", "x" * 129, "é", "a\tb", '"', "<script>", "a;b"])
def test_any_other_request_id_is_replaced(given):
    """What is too long or could break a log line is not repeated; every request gets an id of its own."""

    @with_client()
    async def ids(client):
        answers = [await client.get("/health", headers={"x-request-id": given}) for _ in range(2)]
        return [answer.headers["x-request-id"] for answer in answers]

    assert len(set(ids)) == 2
    assert all(re.fullmatch("[0-9a-f]{16}", one) for one in ids)


def test_the_request_log_hears_of_every_request_once():
    """Good and bad requests alike are told with all that is known; a slash that was encoded reads as one."""
    heard = []

    @with_client(log=lambda *said: heard.append(said))
    async def _(client):
        await client.get("/health")
        await client.get("/api/v1/memories", headers={"x-request-id": "mine"})
        await client.get("/api/v1/memories", key="mtk_wrong")
        await client.get("/api/v1/memories/a%2Fb%2fc")
        await client.get("/nowhere")

    assert [(method, path, status, org_id) for method, path, status, _, org_id, *_ in heard] == [
        ("GET", "/health", 200, None),
        ("GET", "/api/v1/memories", 200, ORG),
        ("GET", "/api/v1/memories", 401, None),
        ("GET", "/api/v1/memories/a/b/c", 404, ORG),
        ("GET", "/nowhere", 404, None),
    ]
    assert heard[1][5] == "mine"
    assert all(0 <= seconds < 60 for _, _, _, seconds, *_ in heard)
    assert [said[6] for said in heard] == ["127.0.0.1"] * 5


TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("traceparent", "trace_id"),
    [
        (f"00-{TRACE}-{PARENT}-01", TRACE),
        (f"00-{TRACE}-{PARENT}-00", TRACE),
        (f"cc-{TRACE}-{PARENT}-01", TRACE),
        (f"cc-{TRACE}-{PARENT}-01-what-comes-later", TRACE),
        (f"00-{TRACE}-{PARENT}-01-what-comes-later", None),
        (f"ff-{TRACE}-{PARENT}-01", None),
        (f"00-{'0' * 32}-{PARENT}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{PARENT}-01", None),
        (f"00-{TRACE[1:]}-{PARENT}-01", None),
        (f"00-{TRACE}-{PARENT}", None),
        ("", None),
    ],
)
def test_a_request_is_logged_with_the_trace_that_its_caller_names(traceparent, trace_id):
    """A valid `traceparent` gives the log line its trace id; any other is as good as none."""
    heard = []

    @with_client(log=lambda *said: heard.append(said))
    async def _(client):
        await client.get("/health", headers={"traceparent": traceparent})
        await client.get("/health")

    assert [said[7] for said in heard] == [trace_id, None]


def test_a_dedup_key_with_slashes_is_found_encoded_or_not():
    """`/memories/{id}` takes a dedup key with its slashes, and one that looks like another path."""

    @with_client()
    async def _(client):
        for key in ("a/b", "https://example.com/x//y", "../search", "50%25"):
            stored = await client.post("/api/v1/memories", {**MEMORY, "dedup_key": key.replace("%25", "%")})
            for written in (key, key.replace("/", "%2F")):
                found = await client.request("GET", f"/api/v1/memories/{written}")
                assert (found.status, found.json) == (200, stored.json)


# In the order of the checks: key, permission, input, Arc instance. Each request is wrong in all the later ways too.
ORDER = [
    (None, "limit=0&nope=1", 401, "missing_api_key"),
    ("mtk_unknown", "limit=0&nope=1", 401, "invalid_api_key"),
    ("write only", "limit=0&nope=1", 403, "missing_permission"),
    ("reader", "limit=0&nope=1", 400, "unknown_parameter"),
    ("reader", "limit=0", 400, "invalid_input"),
    ("reader", "limit=1", 503, "no_arc_instance"),
]


@pytest.mark.parametrize(("key", "query", "status", "code"), ORDER)
def test_the_checks_come_in_the_published_order(key, query, status, code):
    """A request that is wrong in several ways is told the first: key, permission, input, Arc instance."""

    @with_client(arc=False)
    async def answer(client):
        keys = {"write only": Permission.WRITE, "reader": Permission.READ}
        given = await client.key_of(keys[key]) if key in keys else key
        return await client.get(f"/api/v1/memories?{query}", key=given)

    assert (answer.status, answer.json["code"]) == (status, code)


@pytest.mark.parametrize(
    ("key", "body", "status"),
    [
        (None, b"{", 401),
        ("mtk_unknown", b"{", 401),
        ("reader", b"{", 403),
        ("writer", b"{", 400),
        ("writer", MEMORY, 503),
    ],
)
def test_a_body_is_looked_at_after_key_and_permission(key, body, status):
    """Who may not write is told so whatever the body is; a bad body is told before a missing Arc instance."""

    @with_client(arc=False)
    async def answer(client):
        keys = {"writer": Permission.WRITE, "reader": Permission.READ}
        given = await client.key_of(keys[key]) if key in keys else key
        return await client.post("/api/v1/memories", body, key=given)

    assert answer.status == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": "Bearer {key}"}, 200),
        ({"authorization": "bearer {key}"}, 200),
        ({"Authorization": "Bearer  {key} "}, 200),
        ({"x-api-key": "{key}"}, 200),
        ({"x-api-key": " {key} "}, 200),
        ({"x-api-key": "wrong", "authorization": "Bearer {key}"}, 401),
        ({"authorization": "Basic {key}"}, 401),
        ({"authorization": "{key}"}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"x-api-key": ""}, 401),
        ({"x-api-key": "é{key}"}, 401),
        ({"x-api-key": "x" * 100_000}, 401),
    ],
)
def test_ways_to_give_a_key(headers, status):
    """x-api-key or a bearer token; anything else is no key."""

    @with_client()
    async def answer(client):
        given = {name: value.format(key=client.key) for name, value in headers.items()}
        return await client.get("/api/v1/memories", headers=given, key=None)

    assert answer.status == status
    assert status == 200 or answer.json["error"] in ("missing API key", "invalid API key")


@pytest.mark.parametrize("permissions", [Permission.READ, Permission.WRITE, Permission.ADMIN])
def test_a_permission_opens_what_it_names(permissions):
    """`read` reads, `write` writes, `admin` does both."""

    @with_client()
    async def statuses(client):
        key = await client.key_of(permissions)
        return [
            (await client.get("/api/v1/memories", key=key)).status,
            (await client.post("/api/v1/memories", MEMORY, key=key)).status,
        ]

    read, write = statuses
    assert read == (403 if permissions is Permission.WRITE else 200)
    assert write == (403 if permissions is Permission.READ else 201)


def test_health_and_readiness_need_no_key():
    """The two answer anybody, and tell `no_instances` apart from ready."""

    @with_client(arc=False)
    async def unbound(client):
        return await client.get("/health", key=None), await client.get("/ready", key=None)

    @with_client()
    async def ready(client):
        return await client.get("/ready", key=None)

    assert unbound[0].status == 200
    assert unbound[0].json == {"status": "ok", "service": "memtrace", "uptime": "0s", "arc": {}}
    assert unbound[1].status == 503
    assert unbound[1].json == {
        "status": "not ready",
        "reason": "no_instances",
        "hint": "configure an Arc instance with `memtrace org add-arc`",
    }
    assert (ready.status, ready.json) == (200, {"status": "ready", "arc": {ORG: True}})


def receiving(*messages, then_hang=False):
    """Return a `receive` that gives these messages, and how often it was asked."""
    left = list(messages)

    async def receive():
        receive.asked += 1
        if left:
            return left.pop(0)
        assert then_hang, "asked for more than there was"
        return await asyncio.get_running_loop().create_future()

    receive.asked = 0
    return receive


def chunk(body, more=True):
    """Return one message of a body."""
    return {"type": "http.request", "body": body, "more_body": more}


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_a_body_in_pieces_is_put_together(size):
    """However a body is cut, what is stored is the whole of it."""
    raw = '{"agent_id":"ada","content":"grün 🙂"}'.encode()
    pieces = [chunk(raw[start : start + size]) for start in range(0, len(raw), size)]

    @with_client()
    async def answer(client):
        return await client.post(
            "/api/v1/memories", None, receive=receiving(*pieces, chunk(b""), chunk(b"", False))
        )

    assert (answer.status, answer.json["content"]) == (201, "grün 🙂")


@pytest.mark.parametrize(
    "messages",
    [
        [{"type": "http.request", "body": b'{"agent_id":"ada","content":"x"}'}],
        [chunk(b'{"agent_id":"ada","content":"x"}'), {"type": "http.request", "more_body": False}],
    ],
)
def test_a_server_may_leave_out_what_asgi_has_defaults_for(messages):
    """`body` and `more_body` are optional in ASGI; the app can be mounted in any server."""

    @with_client()
    async def answer(client):
        return await client.post("/api/v1/memories", None, receive=receiving(*messages))

    assert answer.status == 201


def test_a_body_that_does_not_arrive_in_time_is_a_408_and_closes_the_connection(monkeypatch):
    """A client that stops in the middle of its body is told so after `read_timeout`, and nothing is stored."""
    deadlines = []
    timeout = asyncio.timeout
    monkeypatch.setattr(asyncio, "timeout", lambda seconds: deadlines.append(seconds) or timeout(seconds))

    @with_client(options=HttpOptions(read_timeout=timedelta(milliseconds=5)))
    async def answers(client):
        receive = receiving(chunk(b'{"agent_id":"ada",'), then_hang=True)
        late = await client.post("/api/v1/memories", None, receive=receive)
        return late, await client.get("/api/v1/memories")

    late, listed = answers
    assert (late.status, late.json["code"]) == (408, "request_timeout")
    assert deadlines == [0.005]
    assert late.headers["connection"] == "close"
    assert listed.json["count"] == 0


def test_the_deadline_is_for_the_whole_body_not_for_each_piece():
    """A body that dribbles in piece by piece does not win time with every piece."""

    @with_client(options=HttpOptions(read_timeout=timedelta(milliseconds=20)))
    async def answer(client):
        async def dribble():
            await asyncio.sleep(0)
            return chunk(b" ")

        return await client.post("/api/v1/memories", None, receive=dribble)

    assert answer.status == 408


def test_a_client_that_leaves_in_the_middle_of_its_body_stores_nothing():
    """A disconnect before the end of the body is no request, whatever came before it."""

    @with_client()
    async def answers(client):
        receive = receiving(chunk(b'{"agent_id":"ada","content":"x"}'), {"type": "http.disconnect"})
        return await client.post("/api/v1/memories", None, receive=receive), await client.get("/api/v1/memories")

    left, listed = answers
    assert (left.status, left.json["code"]) == (400, "client_left")
    assert listed.json["count"] == 0


@pytest.mark.parametrize(
    ("encoding", "status"), [("gzip", 400), ("BR", 400), ("identity, gzip", 400), ("Identity", 201)]
)
def test_an_encoded_body_is_refused_unread(encoding, status):
    """The server decodes nothing, and says so before it reads; `identity` is no encoding."""

    @with_client()
    async def _(client):
        receive = receiving(chunk(b'{"agent_id":"ada","content":"x"}', False))
        headers = {"content-encoding": encoding}
        answer = await client.post("/api/v1/memories", None, headers=headers, receive=receive)
        assert (answer.status, receive.asked) == (status, int(status == 201))
        assert status == 201 or answer.json["code"] == "unsupported_encoding"


def memory_of(size):
    """Return a body of exactly so many bytes that is a good batch but for its size."""
    body = b'{"memories":[{"agent_id":"ada","content":"x"}]}'
    return body + b" " * (size - len(body))


@pytest.mark.parametrize(("size", "status"), [(MAX_BODY_BYTES, 201), (MAX_BODY_BYTES + 1, 413)])
def test_a_body_may_have_16_mib_and_not_a_byte_more(size, status):
    """The limit is exact, with and without a declared length, and the framework has no lower one."""
    body = memory_of(size)
    pieces = [body[: size // 2], body[size // 2 :]]

    @with_client()
    async def answers(client):
        declared = await client.post("/api/v1/memories", body, headers={"content-length": str(size)})
        receive = receiving(chunk(pieces[0]), chunk(pieces[1], False))
        return declared, await client.post("/api/v1/memories", None, receive=receive)

    assert MAX_BODY_BYTES == 16 << 20
    # The second is a duplicate, which a batch reports in its 201.
    assert [answer.status for answer in answers] == [status, status]
    if status == 413:
        assert answers[0].json["code"] == "body_too_large"
        assert "connection" not in answers[0].headers


def test_a_body_that_is_far_too_large_is_read_on_up_to_a_bound(monkeypatch):
    """So that the client can read its 413 the body is read on, but not for ever, and not into memory."""
    monkeypatch.setattr(requests_module, "MAX_BODY_BYTES", 1000)
    monkeypatch.setattr(requests_module, "MAX_DRAINED_BYTES", 10_000)
    piece = b"x" * 500

    @with_client()
    async def _(client):
        ending = receiving(*[chunk(piece)] * 10, chunk(piece, False))
        answer = await client.post("/api/v1/memories", None, receive=ending)
        assert (answer.status, ending.asked) == (413, 11)
        assert "connection" not in answer.headers
        endless = receiving(*[chunk(piece)] * 1000)
        answer = await client.post("/api/v1/memories", None, receive=endless)
        assert (answer.status, endless.asked) == (413, 21)
        assert answer.headers["connection"] == "close"

    assert MAX_DRAINED_BYTES == 64 << 20


def test_the_app_runs_before_it_starts_and_stops_its_services():
    """`before` runs ahead of the first request, and at the end the journal is closed."""
    seen = []

    async def before():
        seen.append("before")

    async def scenario():
        async with served(options=HttpOptions(before=before)) as client:
            assert seen == ["before"]
            services = client.services
            await client.get("/health")
        return services

    services = asyncio.run(scenario())
    with pytest.raises(Exception, match="closed"):
        asyncio.run(services.journal.append(None, []))


def test_a_route_that_declares_nothing_would_be_noticed():
    """Every route of the app but the OpenAPI document declares its permission; an undeclared one needs no key."""
    from litestar.routes import HTTPRoute

    from memtrace_http.endpoints import endpoint_of

    @get("/naked")
    async def naked() -> None:
        """Declare nothing."""

    assert endpoint_of(naked) is None

    @with_client()
    async def undeclared(client):
        return {
            (route.path, method)
            for route in client.app._app.routes
            if isinstance(route, HTTPRoute)
            for handler in route.route_handlers
            for method in handler.http_methods
            if method != "OPTIONS" and endpoint_of(handler) is None
        }

    assert undeclared == {("/schema/openapi.json", "GET")}


def test_only_health_readiness_and_the_document_need_no_key():
    """Without a key every other route answers 401, whatever it is."""

    @with_client()
    async def _(client):
        document = (await client.get("/schema/openapi.json", key=None)).json
        answered = {}
        for path, operations in document["paths"].items():
            for method in operations:
                target = re.sub(r"{\w+}", "x", path)
                answered[method, path] = (await client.request(method.upper(), target, key=None)).status
        assert {one for one, status in answered.items() if status != 401} == {("get", "/health"), ("get", "/ready")}
        assert len(answered) >= 18
