"""Refusals: their shape, their order, and bodies that are too large."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from typing import Any

import httpx
import pytest
from e2e.processes import Deployment, Server, Tenant, read_response

MIB = 1 << 20


def assert_problem(response: httpx.Response, status: int, error: str | None, code: str) -> dict[str, Any]:
    """Expect an error of the agreed shape, and return it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    problem = response.json()
    assert problem["code"] == code
    assert error in (None, problem["error"])
    assert problem["request_id"] == response.headers["x-request-id"]
    assert problem.keys() <= {"error", "code", "hint", "request_id", "memory_id"}
    return problem


def test_no_key_is_a_401(server: Server, tenant: Tenant) -> None:
    """A request without a key is told that it is missing."""
    with server.client() as client:
        assert_problem(client.get("/api/v1/memories"), 401, "missing API key", "missing_api_key")


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": "mtk_unknown"},
        {"authorization": "Bearer mtk_unknown"},
        {"x-api-key": "x" * 10_000},
        {"x-api-key": "\u00e9'; --".encode().decode("latin-1")},
    ],
)
def test_an_unknown_key_is_a_401(server: Server, headers: dict[str, str]) -> None:
    """A key that nobody has is invalid, in either header."""
    with server.client() as client:
        response = client.get(
            "/api/v1/memories", headers={name: value.encode("latin-1") for name, value in headers.items()}
        )
        assert_problem(response, 401, "invalid API key", "invalid_api_key")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_bearer_token_is_a_key(server: Server, tenant: Tenant, scheme: str) -> None:
    """`Authorization: Bearer` works like `x-api-key`."""
    with server.client() as client:
        response = client.get("/api/v1/memories", headers={"authorization": f"{scheme} {tenant.key}"})
        assert response.status_code == 200


@pytest.mark.parametrize(
    ("permissions", "reads", "writes"),
    [("read", 200, 403), ("write", 403, 201), ("read,write", 200, 201), ("admin", 200, 201)],
)
def test_a_key_does_what_its_permissions_say(
    shared: Deployment, server: Server, permissions: str, reads: int, writes: int
) -> None:
    """`read` reads, `write` writes, `admin` does both, and what lacks is a 403 that names it."""
    tenant = shared.tenant(permissions=permissions)
    with server.client(tenant) as api:
        read = api.get("/api/v1/memories")
        write = api.post("/api/v1/memories", json={"agent_id": "ada", "content": "x"})
    assert (read.status_code, write.status_code) == (reads, writes)
    for response, permission in ((read, "read"), (write, "write")):
        if response.status_code == 403:
            problem = assert_problem(response, 403, None, "missing_permission")
            assert permission in problem["error"]


def test_the_checks_come_in_their_order(shared: Deployment, server: Server) -> None:
    """Key (401), permission (403), input (400), Arc instance (503): the first that fails answers."""
    org_id = shared.org(bound=False)
    reader, admin = shared.key(org_id, "read", "reader"), shared.key(org_id, "admin", "admin")
    bad, good = {"agent_id": 5}, {"agent_id": "ada", "content": "x"}
    with server.client() as client:

        def post(body: dict[str, Any], key: str | None) -> int:
            headers = {"x-api-key": key} if key else {}
            return client.post("/api/v1/memories?", json=body, headers=headers).status_code

        assert post(bad, None) == 401
        assert post(bad, reader.key) == 403
        assert post(bad, admin.key) == 400
        assert post(good, admin.key) == 503
        assert client.get("/api/v1/memories?colour=red").status_code == 401
        for path in ("/api/v1/memories?limit=0", "/api/v1/agents/1a/stats", "/api/v1/sessions/1a/memories"):
            assert client.get(path, headers={"x-api-key": admin.key}).status_code == 400
        for path in ("/api/v1/memories/x", "/api/v1/agents/a/stats", "/api/v1/sessions/a/memories"):
            assert client.get(path, headers={"x-api-key": admin.key}).status_code == 503


def test_an_org_without_arc_is_told_what_to_do(shared: Deployment, server: Server) -> None:
    """The 503 has the exact words that the client knows, a hint with the org's id, and no Retry-After."""
    tenant = shared.tenant(bound=False)
    with server.client(tenant) as api:
        for response in (
            api.get("/api/v1/memories"),
            api.post("/api/v1/memories", json={"agent_id": "ada", "content": "x"}),
            api.post("/api/v1/search", json={}),
            api.post("/api/v1/sessions/s1/context"),
        ):
            problem = assert_problem(response, 503, "no arc instance configured for this org", "no_arc_instance")
            assert problem["hint"] == f"ask an admin to run `memtrace org add-arc {tenant.org_id}`"
            assert "retry-after" not in response.headers


def test_another_503_says_when_to_come_back(shared: Deployment, server: Server) -> None:
    """An Arc that cannot be reached is a 503 with Retry-After, and without the words of a missing one."""
    org_id = shared.org(bound=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    shared.done(
        "org",
        "add-arc",
        org_id,
        "--url",
        f"http://127.0.0.1:{port}",
        "--api-key",
        "arc-key-1",
        "--database",
        "memory",
    )
    with server.client(shared.key(org_id)) as api:
        response = api.get("/api/v1/memories")
        problem = assert_problem(response, 503, None, "arc_unreachable")
        assert int(response.headers["retry-after"]) > 0
        assert "arc instance" not in problem["error"].lower()


def test_an_unknown_path_is_a_404(api: httpx.Client) -> None:
    """Paths that do not exist answer in the same shape."""
    for path in (
        "/",
        "/api",
        "/api/v1",
        "/api/v2/memories",
        "/docs",
        "/schema",
        "/api/v1/agents/a/b/c",
        "/static/x",
    ):
        assert_problem(api.get(path), 404, None, "no_such_endpoint")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/api/v1/memories", {"GET", "POST"}),
        ("GET", "/api/v1/search", {"POST"}),
        ("PATCH", "/api/v1/sessions/s1", {"GET", "PUT"}),
        ("PUT", "/api/v1/agents", {"GET", "POST"}),
        ("POST", "/health", {"GET"}),
        ("PUT", "/api/v1/memories/mem_a", {"GET", "DELETE"}),
    ],
)
def test_a_wrong_method_is_a_405(api: httpx.Client, method: str, path: str, allowed: set[str]) -> None:
    """A method that a path does not have is refused, and `Allow` tells which it has."""
    response = api.request(method, path)
    assert_problem(response, 405, None, "method_not_allowed")
    assert allowed <= {one.strip() for one in response.headers["allow"].split(",")}


def test_the_same_agent_name_twice_is_a_409(api: httpx.Client) -> None:
    """An org has one agent of a name."""
    assert api.post("/api/v1/agents", json={"name": "ada"}).status_code == 201
    response = api.post("/api/v1/agents", json={"name": "ada"})
    assert response.status_code == 409
    assert response.json()["code"]
    assert api.get("/api/v1/agents").json()["count"] == 1


@pytest.mark.parametrize("sent", ["a", "trace-1.2_3", "x" * 128])
def test_a_sane_request_id_is_echoed(api: httpx.Client, sent: str) -> None:
    """A caller's request id comes back on success and in errors."""
    headers = {"x-request-id": sent}
    assert api.get("/api/v1/memories", headers=headers).headers["x-request-id"] == sent
    assert api.get("/health", headers=headers).headers["x-request-id"] == sent
    assert api.get("/api/v1/memories?limit=0", headers=headers).json()["request_id"] == sent


@pytest.mark.parametrize("sent", ["", "a b", "x" * 129, '"', "a\tb", "<script>"])
def test_another_request_id_is_replaced(api: httpx.Client, sent: str) -> None:
    """A request id that could break a log line is not taken over; the request gets one of its own."""
    found = api.get("/api/v1/memories", headers={"x-request-id": sent}).headers["x-request-id"]
    assert found != sent
    assert 8 <= len(found) <= 128


def test_every_response_has_a_request_id_of_its_own(api: httpx.Client) -> None:
    """Each response carries one id, and no two are alike."""
    responses = [
        api.get(path) for path in ("/health", "/ready", "/nowhere", "/api/v1/memories", "/schema/openapi.json")
    ]
    assert len({response.headers["x-request-id"] for response in responses}) == len(responses)


def memory_body(size: int) -> bytes:
    """Return a batch of good memories of exactly so many bytes."""
    member = json.dumps({"agent_id": "ada", "content": "x" * (900 << 10)})
    members = [member.replace('"x', f'"{number:04}x', 1) for number in range(size // (901 << 10) - 1)]
    return ('{"memories":[' + ",".join(members) + "]}").encode().ljust(size)


def test_a_body_of_sixteen_mebibytes_is_taken(api: httpx.Client) -> None:
    """A batch in a body of exactly 16 MiB is stored."""
    response = api.post("/api/v1/memories", content=memory_body(16 * MIB))
    assert response.status_code == 201, response.text[:300]


@pytest.mark.parametrize("size", [16 * MIB + 1, 40 * MIB])
def test_a_larger_body_is_refused_readably(server: Server, tenant: Tenant, size: int) -> None:
    """A client that sends everything before it listens can read the 413, and use the connection again."""
    head = (
        f"POST /api/v1/memories HTTP/1.1\r\nhost: x\r\nx-api-key: {tenant.key}\r\n"
        f"content-type: application/json\r\ncontent-length: {size}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(head.encode() + b" " * size)
        response = read_response(connection)
        assert response.status_code == 413
        assert (response.json()["code"], response.json()["error"]) == (
            "body_too_large",
            "the body is larger than 16 MiB",
        )
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert read_response(connection).status_code == 200


def test_an_endless_body_is_cut_off(server: Server, tenant: Tenant) -> None:
    """A body without a length is read on only up to a bound, then the connection is closed."""
    head = f"POST /api/v1/memories HTTP/1.1\r\nhost: x\r\nx-api-key: {tenant.key}\r\n"
    chunk = b"%x\r\n" % MIB + b" " * MIB + b"\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(head.encode() + b"transfer-encoding: chunked\r\n\r\n")
        sent = 0
        with suppress(BrokenPipeError, ConnectionResetError):
            while sent < 1024:
                connection.sendall(chunk)
                sent += 1
        assert 16 < sent < 512


def test_a_body_over_the_limit_is_refused_on_every_route(api: httpx.Client) -> None:
    """Every route with a body has the same bound."""
    large = b" " * (16 * MIB + 1)
    for method, path in (
        ("POST", "search"),
        ("POST", "agents"),
        ("POST", "sessions"),
        ("PUT", "sessions/s1"),
        ("POST", "sessions/s1/context"),
    ):
        assert_problem(api.request(method, f"/api/v1/{path}", content=large), 413, None, "body_too_large")


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("POST /api/v1/memories", 401),
        ("POST /nowhere", 404),
        ("DELETE /api/v1/memories", 405),
        ("POST /api/v1/memories?colour=red", 401),
    ],
)
def test_a_large_body_that_nobody_wants_does_not_hide_the_answer(
    server: Server, request_line: str, status: int
) -> None:
    """A client that sends everything before it listens can read any refusal."""
    size = 20 * MIB
    head = f"{request_line} HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(head.encode() + b" " * size)
        assert read_response(connection).status_code == status
