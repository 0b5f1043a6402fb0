"""Clients that are slow, silent, or do not read, and a server that is told to stop."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from e2e.processes import Deployment, Server, Tenant, eventually, read_response

# How long a test waits before it calls a deadline of one second missed.
PATIENCE = 20.0


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Tenant]]:
    """Return a server with time limits of one second, and a tenant on it."""
    deployment = Deployment(tmp_path_factory.mktemp("impatient"))
    tenant = deployment.tenant()
    limits = {"MEMTRACE_SERVER_READ_TIMEOUT": "1", "MEMTRACE_SERVER_WRITE_TIMEOUT": "1"}
    with deployment.serve(variables=limits) as server:
        yield server, tenant


@contextmanager
def connected(server: Server, receive_buffer: int | None = None) -> Iterator[socket.socket]:
    """Open a connection, with a small receive buffer if wanted."""
    with socket.socket() as connection:
        connection.settimeout(PATIENCE)
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.connect(("127.0.0.1", server.port))
        yield connection


def dribble_until_answered(connection: socket.socket, byte: bytes) -> bytes:
    """Send a byte now and then until the server has answered and closed the connection; return what it said."""
    received = b""
    connection.settimeout(0.1)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.send(byte)
        try:
            part = connection.recv(65536)
        except TimeoutError:
            continue
        except ConnectionResetError:
            return received
        if not part:
            return received
        received += part
    raise AssertionError(f"the connection was not closed; received so far: {received!r}")


def post_head(tenant: Tenant, length: int) -> bytes:
    """Return the head of a post."""
    head = f"POST /api/v1/memories HTTP/1.1\r\nhost: x\r\nx-api-key: {tenant.key}\r\ncontent-length: {length}"
    return f"{head}\r\n\r\n".encode()


def test_a_body_that_dribbles_in_is_a_408(impatient: tuple[Server, Tenant]) -> None:
    """A body that is not there within `read_timeout` is answered with 408, and the connection is closed."""
    server, tenant = impatient
    with connected(server) as connection:
        connection.sendall(post_head(tenant, 1000))
        said = dribble_until_answered(connection, b" ")
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in said
    assert b"connection: close" in said.lower()
    eventually(lambda: [event for event in server.events("request") if event["status"] == 408])


def test_headers_that_dribble_in_are_cut_off(impatient: tuple[Server, Tenant]) -> None:
    """A request whose headers are not complete within `read_timeout` is refused, and the connection is closed."""
    server, _ = impatient
    with connected(server) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nx-slow: ")
        said = dribble_until_answered(connection, b"a")
    assert said == b"" or said.startswith(b"HTTP/1.1 408 ")


def test_slow_headers_of_a_second_request_are_cut_off_too(impatient: tuple[Server, Tenant]) -> None:
    """The limit counts for every request of a connection."""
    server, _ = impatient
    with connected(server) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert read_response(connection).status_code == 200
        connection.sendall(b"GET /health HTTP/1.1\r\nx-slow: ")
        said = dribble_until_answered(connection, b"a")
    assert said == b"" or said.startswith(b"HTTP/1.1 408 ")


# Behind an answer the wait is uvicorn's own, of five seconds.
@pytest.mark.parametrize(
    "first", [b"", pytest.param(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n", marks=pytest.mark.slow)]
)
def test_a_connection_that_says_nothing_is_closed(impatient: tuple[Server, Tenant], first: bytes) -> None:
    """A connection on which no request comes, or none after the first, does not stay open."""
    server, _ = impatient
    with connected(server) as connection:
        if first:
            connection.sendall(first)
            assert read_response(connection).status_code == 200
        assert connection.recv(65536) == b""


def test_headers_without_end_are_refused(impatient: tuple[Server, Tenant]) -> None:
    """Headers of more than 64 KiB are a 431, and the connection is closed."""
    server, _ = impatient
    with connected(server) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nx-large: " + b"a" * (65 << 10))
        said = dribble_until_answered(connection, b"a")
    assert said == b"" or said.startswith(b"HTTP/1.1 431 ")


def test_a_client_that_does_not_read_is_dropped(impatient: tuple[Server, Tenant]) -> None:
    """A client that takes no byte of a large answer for `write_timeout` loses its connection, others do not."""
    server, tenant = impatient
    with server.client(tenant) as api:
        for number in range(12):
            body = {"agent_id": "ada", "content": f"{number:02}" + "x" * ((1 << 20) - 2)}
            assert api.post("/api/v1/memories", json=body).status_code == 201
        with connected(server, receive_buffer=4096) as connection:
            request = f"GET /api/v1/memories HTTP/1.1\r\nhost: x\r\nx-api-key: {tenant.key}\r\n\r\n"
            connection.sendall(request.encode())
            mine = f"{connection.getsockname()[1]:04X}"
            eventually(lambda: server_side(server, mine), what="the server has the connection")
            # The server's end goes although we read nothing and keep ours open.
            eventually(
                lambda: not server_side(server, mine), within=PATIENCE, what="the server drops the connection"
            )
        assert api.get("/health").status_code == 200
        assert len(api.get("/api/v1/memories").content) > 12 << 20


def server_side(server: Server, port: str) -> bool:
    """Tell whether the server still holds its end of the connection to our port (in hexadecimal)."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    established = "01"
    return any(
        row[1].endswith(f":{server.port:04X}") and row[2].endswith(f":{port}") and row[3] == established
        for row in rows
    )


@pytest.mark.parametrize("how", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_server_that_is_told_to_stop_finishes_its_requests(deployment: Deployment, how: signal.Signals) -> None:
    """The request that is under way gets its 201, new connections are refused, the exit code is 0, all is kept."""
    tenant = deployment.tenant()
    body = b'{"agent_id":"ada","content":"the last one"}'
    with deployment.serve() as server:
        with connected(server) as connection:
            connection.sendall(post_head(tenant, len(body)) + body[:10])
            with server.client() as client:
                # Once this is answered, the server has surely seen the request that came before it.
                assert client.get("/health").status_code == 200
            server.process.send_signal(how)
            eventually(lambda: refuses_connections(server), what="the server stops accepting")
            assert server.process.poll() is None
            connection.sendall(body[10:])
            assert read_response(connection).status_code == 201
        assert server.process.wait(PATIENCE) == 0
        assert server.out == ""
        assert "Traceback" not in server.err
        assert server.events("memtrace has stopped")
    with deployment.serve() as server, server.client(tenant) as api:
        assert [one["content"] for one in api.get("/api/v1/memories").json()["memories"]] == ["the last one"]


def test_a_request_that_never_ends_does_not_hold_a_server_up(deployment: Deployment) -> None:
    """After `shutdown_timeout` the server stops although a client still owes a body, and exits 0."""
    tenant = deployment.tenant()
    with (
        deployment.serve(variables={"MEMTRACE_SERVER_SHUTDOWN_TIMEOUT": "0.5"}) as server,
        connected(server) as connection,
    ):
        connection.sendall(post_head(tenant, 1000) + b"{")
        with server.client() as client:
            assert client.get("/health").status_code == 200
        assert server.stop() == 0


def test_an_idle_connection_does_not_hold_a_server_up(deployment: Deployment) -> None:
    """Clients that keep their connections open are left, and the server exits 0 long before `shutdown_timeout`."""
    tenant = deployment.tenant()
    with (
        deployment.serve(variables={"MEMTRACE_SERVER_SHUTDOWN_TIMEOUT": "3600"}) as server,
        server.client(tenant) as api,
    ):
        assert api.get("/api/v1/memories").status_code == 200
        with connected(server) as silent:
            assert server.stop() == 0
            assert silent.recv(1) == b""


def refuses_connections(server: Server) -> bool:
    """Tell whether nobody can connect any more."""
    try:
        socket.create_connection(("127.0.0.1", server.port), timeout=5).close()
    except OSError:
        return True
    return False
