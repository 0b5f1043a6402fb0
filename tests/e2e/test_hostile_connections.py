"""Bytes that no well-meaning client sends: the server refuses or bounds them, without a 5xx, a hang, or growth."""

from __future__ import annotations

import json
import re
import resource
import socket
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
from e2e.processes import Deployment, Server, Tenant, eventually

MIB = 1 << 20
MANY = 1000
# How long a test waits before it calls a connection hung; the server's own limits are two seconds.
PATIENCE = 20.0
GROWTH_BYTES = 48 * MIB

HEALTH = b"GET /health HTTP/1.1\r\nhost: x\r\n"
LAST = HEALTH + b"connection: close\r\n\r\n"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Tenant]]:
    """Return a server with time limits of two seconds, and a tenant on it."""
    deployment = Deployment(tmp_path_factory.mktemp("target"))
    tenant = deployment.tenant()
    limits = {"MEMTRACE_SERVER_READ_TIMEOUT": "2", "MEMTRACE_SERVER_WRITE_TIMEOUT": "2"}
    with deployment.serve(variables=limits) as server:
        yield server, tenant
        assert server.process.poll() is None
        assert "Traceback" not in server.err


def connect(server: Server) -> socket.socket:
    """Open a connection."""
    return socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)


def read_to_end(connection: socket.socket) -> bytes:
    """Return all that the server says until it closes the connection, which it must."""
    received = b""
    with suppress(ConnectionResetError):
        while part := connection.recv(1 << 16):
            received += part
    return received


def answers(received: bytes) -> list[httpx.Response]:
    """Split what was received into responses, each with a content-length or without a body."""
    found = []
    while received:
        head, separator, received = received.partition(b"\r\n\r\n")
        assert separator, head
        status, *lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        length = int(headers.get("content-length", 0))
        found.append(httpx.Response(int(status.split()[1]), headers=headers, content=received[:length]))
        received = received[length:]
    return found


def tell(server: Server, *parts: bytes) -> list[httpx.Response]:
    """Send bytes, each part as a read of its own, and return the responses up to the end of the connection."""
    with connect(server) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number, part in enumerate(parts):
            if number:
                settled(server)
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(part)
        return answers(read_to_end(connection))


def settled(server: Server) -> None:
    """Wait until the server has read what was sent before: a request that came later is answered."""
    with server.client() as client:
        assert client.get("/health").status_code == 200


def rss(server: Server) -> int:
    """Return how much memory the server holds, in bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1]) << 10


def stored(server: Server, tenant: Tenant) -> set[str]:
    """Return the contents of the tenant's memories."""
    with server.client(tenant) as api:
        return {memory["content"] for memory in api.get("/api/v1/memories?limit=1000").json()["memories"]}


def assert_refused(response: httpx.Response, status: int = 400, code: str = "invalid_http") -> None:
    """Expect a refusal in the form of all errors."""
    assert response.status_code == status, response.text
    problem = response.json()
    assert problem["code"] == code
    assert problem["error"]
    assert problem["request_id"] == response.headers["x-request-id"]
    assert response.headers["content-type"] == "application/json"
    assert response.headers["connection"] == "close"


def post(tenant: Tenant, headers: bytes, body: bytes) -> bytes:
    """Return a request to store a memory with a framing of one's own."""
    head = b"POST /api/v1/memories HTTP/1.1\r\nhost: x\r\nx-api-key: " + tenant.key.encode() + b"\r\n"
    return head + headers + b"\r\n" + body


def test_a_refusal_in_the_middle_of_a_request_bears_its_id(server: Server, tenant: Tenant) -> None:
    """The caller's own, if its head was whole; the next request on the connection would have another."""
    head = CHUNKED + b"x-request-id: mine\r\n"
    (refused,) = tell(server, post(tenant, head, b"zz\r\n"))
    assert_refused(refused)
    assert refused.headers["x-request-id"] == "mine"
    whole = post(tenant, CHUNKED + b"x-request-id: first\r\n", GOOD_CHUNKS)
    answered, refused = tell(server, whole, b"rubbish\r\n\r\n")
    assert answered.headers["x-request-id"] == "first"
    assert refused.headers["x-request-id"] != "first"


MEMORY = b'{"agent_id":"ada","content":"smuggled"}'
CHUNKED = b"transfer-encoding: chunked\r\n"
GOOD_CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(MEMORY), MEMORY)
LENGTH = b"content-length: %d\r\n" % len(MEMORY)

# Framings on which two parsers may not agree: the server takes no part in it.
FRAMINGS = {
    "length and chunks": (LENGTH + CHUNKED, GOOD_CHUNKS),
    "chunks and length": (CHUNKED + LENGTH, GOOD_CHUNKS),
    "a length twice": (LENGTH + LENGTH, MEMORY),
    "two lengths": (LENGTH + b"content-length: 5\r\n", MEMORY),
    "a list of lengths": (b"content-length: 39, 39\r\n", MEMORY),
    "a length with a sign": (b"content-length: +39\r\n", MEMORY),
    "a negative length": (b"content-length: -1\r\n", MEMORY),
    "a hexadecimal length": (b"content-length: 0x27\r\n", MEMORY),
    "a length beyond all numbers": (b"content-length: 99999999999999999999999\r\n", MEMORY),
    "an empty length": (b"content-length:\r\n", MEMORY),
    "a space before the colon": (b"content-length : 39\r\n", MEMORY),
    "an unknown coding": (b"transfer-encoding: xchunked\r\n", GOOD_CHUNKS),
    "chunked, but not last": (b"transfer-encoding: chunked, identity\r\n", GOOD_CHUNKS),
    "no coding": (b"transfer-encoding: identity\r\n", MEMORY),
    "chunked twice": (CHUNKED + CHUNKED, GOOD_CHUNKS),
    "a chunk size of no digits": (CHUNKED, b"zz\r\n%b\r\n0\r\n\r\n" % MEMORY),
    "a negative chunk size": (CHUNKED, b"-27\r\n%b\r\n0\r\n\r\n" % MEMORY),
    "a chunk size with a prefix": (CHUNKED, b"0x27\r\n%b\r\n0\r\n\r\n" % MEMORY),
    "a chunk size beyond all numbers": (CHUNKED, b"fffffffffffffffff\r\n%b\r\n0\r\n\r\n" % MEMORY),
    "a space after a chunk size": (CHUNKED, b"27 \r\n%b\r\n0\r\n\r\n" % MEMORY),
    "a chunk that is longer than its size": (CHUNKED, b"26\r\n%b\r\n0\r\n\r\n" % MEMORY),
    "chunks with bare line feeds": (CHUNKED, b"27\n%b\n0\n\n" % MEMORY),
    "a line feed in a chunk extension": (CHUNKED, b"27;a\n%b\r\n0\r\n\r\n" % MEMORY),
}


@pytest.mark.parametrize("name", FRAMINGS)
def test_an_ambiguous_framing_is_refused_and_ends_the_connection(target: tuple[Server, Tenant], name: str) -> None:
    """Nothing is stored, and what follows on the connection is not taken for a request of its own."""
    server, tenant = target
    (refused,) = tell(server, post(tenant, *FRAMINGS[name]) + LAST)
    assert_refused(refused)
    assert "smuggled" not in stored(server, tenant)


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"chunked\r\ntransfer-encoding: gzip", b"gzip"])
def test_a_coded_transfer_is_refused(target: tuple[Server, Tenant], coding: bytes) -> None:
    """The server knows no coding but chunks, and does not take coded bytes for plain ones."""
    server, tenant = target
    (refused,) = tell(server, post(tenant, b"transfer-encoding: " + coding + b"\r\n", GOOD_CHUNKS) + LAST)
    assert_refused(refused)
    assert "smuggled" not in stored(server, tenant)


MALFORMED = {
    "bare line feeds": b"GET /health HTTP/1.1\nhost: x\nconnection: close\n\n",
    "a bare carriage return": b"GET /health HTTP/1.1\r\nhost: x\r\nx: a\rb: c\r\n\r\n",
    "a folded header": b"GET /health HTTP/1.1\r\nhost: x\r\nx: a\r\n b\r\n\r\n",
    "a header that begins folded": b"GET /health HTTP/1.1\r\n x: y\r\nhost: x\r\n\r\n",
    "a space before a colon": b"GET /health HTTP/1.1\r\nhost : x\r\n\r\n",
    "a NUL in a value": b"GET /health HTTP/1.1\r\nhost: x\r\nx: a\0b\r\n\r\n",
    "a NUL in a name": b"GET /health HTTP/1.1\r\nhost: x\r\nx\0: a\r\n\r\n",
    "a NUL in the path": b"GET /he\0alth HTTP/1.1\r\nhost: x\r\n\r\n",
    "a nameless header": b"GET /health HTTP/1.1\r\nhost: x\r\n: a\r\n\r\n",
    "an unknown method": b"BREW /health HTTP/1.1\r\nhost: x\r\n\r\n",
    "a method in small letters": b"get /health HTTP/1.1\r\nhost: x\r\n\r\n",
    "a tunnel": b"CONNECT example.com:443 HTTP/1.1\r\nhost: x\r\n\r\n",
    "a version to come": b"GET /health HTTP/9.9\r\nhost: x\r\n\r\n",
    "HTTP/2 without asking": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a path that is not ASCII": b"GET /h\xc3\xa9 HTTP/1.1\r\nhost: x\r\n\r\n",
    "a query that is not ASCII": b"GET /health?\xff=1 HTTP/1.1\r\nhost: x\r\n\r\n",
    "TLS": bytes.fromhex("16030100c8010000c40303") + bytes(200),
    "any bytes": bytes(range(256)) * 10,
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_not_http_is_a_400_in_the_form_of_all_errors(target: tuple[Server, Tenant], name: str) -> None:
    """Whatever is no HTTP/1.1 request gets one JSON answer, and the connection is closed."""
    server, tenant = target
    (refused,) = tell(server, MALFORMED[name] + post(tenant, LENGTH, MEMORY) + LAST)
    assert_refused(refused)
    assert "smuggled" not in stored(server, tenant)


def test_earlier_requests_are_answered_before_a_refusal(target: tuple[Server, Tenant]) -> None:
    """Who stores a memory and sends garbage right behind is told of the memory first, then of the garbage."""
    server, tenant = target
    bodies = [b'{"agent_id":"ada","content":"before garbage %d"}' % number for number in range(3)]
    requests = b"".join(post(tenant, b"content-length: %d\r\n" % len(body), body) for body in bodies)
    *done, refused = tell(server, requests + b"\0garbage\r\n\r\n")
    assert [one.status_code for one in done] == [201, 201, 201]
    assert_refused(refused)
    *done, refused = tell(
        server, post(tenant, LENGTH.replace(b"39", b"1"), b"{") * 2 + post(tenant, CHUNKED, b"zz")
    )
    assert [one.status_code for one in done] == [400, 400]
    assert_refused(refused)


def test_a_refused_request_does_not_stop_the_next_one(target: tuple[Server, Tenant]) -> None:
    """Requests behind one that is refused for what it asks are served in their order."""
    server, tenant = target
    good = b'{"agent_id":"ada","content":"behind a 400"}'
    request = post(tenant, b"content-length: 1\r\n", b"{") + post(
        tenant, b"content-length: %d\r\n" % len(good), good
    )
    assert [one.status_code for one in tell(server, request + LAST)] == [400, 201, 200]


@pytest.mark.parametrize("upgrade", ["h2c", "websocket", "anything"])
@pytest.mark.parametrize("chunked", [False, True], ids=["by length", "in chunks"])
@pytest.mark.parametrize("whole", [False, True], ids=["in pieces", "at once"])
def test_a_request_that_asks_for_another_protocol_is_served_in_this_one(
    target: tuple[Server, Tenant], upgrade: str, chunked: bool, whole: bool
) -> None:
    """The wish is ignored: its body is read, however it arrives, and the next request is answered as well."""
    server, tenant = target
    content = f"rather {upgrade} {chunked} {whole}"
    body = json.dumps({"agent_id": "ada", "content": content}).encode()
    framing = CHUNKED if chunked else b"content-length: %d\r\n" % len(body)
    wish = f"connection: upgrade\r\nupgrade: {upgrade}\r\n".encode()
    parts = [
        post(tenant, wish + framing, b""),
        b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body,
        LAST,
    ]
    said = tell(server, b"".join(parts)) if whole else tell(server, *parts)
    assert [one.status_code for one in said] == [201, 200]
    assert content in stored(server, tenant)


def test_the_body_of_a_request_that_asks_for_another_protocol_is_no_request(target: tuple[Server, Tenant]) -> None:
    """What stands in such a body is never served, even if it arrives by itself."""
    server, tenant = target
    hidden = HEALTH + b"\r\n"
    framing = b"connection: upgrade\r\nupgrade: h2c\r\ncontent-length: %d\r\n" % len(hidden)
    said = tell(server, post(tenant, framing, b""), hidden, LAST)
    assert [one.status_code for one in said] == [400, 200]


def test_trailers_are_no_headers(target: tuple[Server, Tenant]) -> None:
    """A key behind the body does not count, nor does anything else there."""
    server, tenant = target
    head = b"POST /api/v1/memories HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" + CHUNKED + b"\r\n"
    key = b"x-api-key: " + tenant.key.encode() + b"\r\n\r\n"
    (answer,) = tell(server, head + b"%x\r\n%b\r\n0\r\n" % (len(MEMORY), MEMORY) + key)
    assert answer.status_code == 401
    assert "smuggled" not in stored(server, tenant)


ENDLESS = {
    "one header": (HEALTH + b"x: ", b"a" * MIB),
    "headers": (HEALTH, b"x: y\r\n" * (MIB // 6)),
    "a path": (b"GET /", b"a" * MIB),
    "empty lines": (b"", b"\r\n" * (MIB // 2)),
    "a chunk extension": (b"POST /nowhere HTTP/1.1\r\nhost: x\r\n" + CHUNKED + b"\r\n27;", b"a" * MIB),
    "trailers": (b"POST /nowhere HTTP/1.1\r\nhost: x\r\n" + CHUNKED + b"\r\n0\r\n", b"x: y\r\n" * (MIB // 6)),
    "one trailer": (b"POST /nowhere HTTP/1.1\r\nhost: x\r\n" + CHUNKED + b"\r\n0\r\nx: ", b"a" * MIB),
    "an unwanted body": (b"POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 999999999999\r\n\r\n", b"a" * MIB),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_never_ends_is_cut_off_without_growth(target: tuple[Server, Tenant], name: str) -> None:
    """However a request goes on for ever, the server stops listening, and has kept none of it."""
    server, _ = target
    before = rss(server)
    start, more = ENDLESS[name]
    deadline = time.monotonic() + 30
    with connect(server) as connection:
        with suppress(BrokenPipeError, ConnectionResetError, TimeoutError):
            connection.sendall(start)
            while time.monotonic() < deadline:
                connection.sendall(more)
                assert rss(server) - before < GROWTH_BYTES
        statuses = [one.status_code for one in answers(read_to_end(connection))]
    assert time.monotonic() < deadline
    assert all(400 <= status < 500 for status in statuses)


def test_ten_thousand_headers_are_refused(target: tuple[Server, Tenant]) -> None:
    """More than 64 KiB of headers are a 431 although they come at once, and 64 KiB less a little are taken."""
    server, _ = target
    (refused,) = tell(server, HEALTH + b"".join(b"x%d: y\r\n" % number for number in range(10_000)) + b"\r\n")
    assert_refused(refused, 431, "headers_too_large")
    (taken,) = tell(server, HEALTH + b"connection: close\r\n" + b"x: y\r\n" * 10_000 + b"\r\n")
    assert taken.status_code == 200


def test_a_compressed_bomb_is_refused_unopened(target: tuple[Server, Tenant]) -> None:
    """A body in another encoding is a 400 that says so, whatever is in it, and is not decompressed."""
    server, tenant = target
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join([packer.compress(bytes(MIB)) for _ in range(64)]) + packer.flush()
    before = rss(server)
    with server.client(tenant) as api:
        for encoding, body in (("gzip", bomb), ("GZip", MEMORY), ("br", MEMORY), ("identity, gzip", bomb)):
            answer = api.post("/api/v1/memories", content=body, headers={"content-encoding": encoding})
            assert (answer.status_code, answer.json()["code"]) == (400, "unsupported_encoding")
        plain = {"content-encoding": "identity"}
        assert api.post("/api/v1/memories", content=MEMORY[:-3] + b'?"}', headers=plain).status_code == 201
    assert rss(server) - before < GROWTH_BYTES


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process open two thousand connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MANY + 500
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize(
    "start",
    [
        HEALTH,
        pytest.param(b"", marks=pytest.mark.slow),
        pytest.param(b"POST /api/v1/memories HTTP/1.1\r\ncontent-length: 9\r\n\r\n", marks=pytest.mark.slow),
    ],
    ids=["half a head", "nothing", "no body"],
)
def test_a_thousand_that_do_not_go_on_leave_room_for_another(target: tuple[Server, Tenant], start: bytes) -> None:
    """A thousand that say nothing, half a head or no body keep nobody out, and are all closed in the end."""
    server, tenant = target
    with ExitStack() as stack:
        waiting = [stack.enter_context(connect(server)) for _ in range(MANY)]
        for connection in waiting:
            connection.sendall(start)
        with server.client(tenant) as api:
            assert api.get("/api/v1/memories?limit=1").status_code == 200
        for connection in waiting:
            statuses = [one.status_code for one in answers(read_to_end(connection))]
            assert statuses in ([], [408], [401])
    folder = Path(f"/proc/{server.process.pid}/fd")
    eventually(lambda: len(list(folder.iterdir())) < 100, what="the server has closed all of them")
