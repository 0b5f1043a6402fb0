"""Connections that nobody would end: the protocol alone, over real sockets with small buffers."""

import asyncio
import socket
from contextlib import asynccontextmanager

import pytest
import uvicorn
import uvloop
from uvicorn.server import ServerState

from memtrace_http import with_deadlines
from memtrace_http.framing import MOST_UNANSWERED

# Short, as tests wait for them, and long enough not to be met by an answer that is on its way.
SECONDS = 0.3
LEFT_OVER = 60_000  # more than the kernel takes here, and too little to be told of by `pause_writing`
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
CLOSING = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"

pytestmark = pytest.mark.timeout(30)


class App:
    """Answers without reading the body; only when `go` is set, with so many bytes. Counts those who ask."""

    def __init__(self, size=2):
        self.size = size
        self.asked = 0
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, scope, receive, send):
        self.asked += 1
        await self.go.wait()
        headers = [(b"content-length", b"%d" % self.size)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"x" * self.size})


class TimersByHand:
    """A loop whose timers ring when the test says so."""

    def __init__(self):
        self._loop = asyncio.get_running_loop()
        self.set = []

    def __getattr__(self, name):
        return getattr(self._loop, name)

    def call_later(self, delay, callback):
        """Keep it; it can be cancelled."""
        self.set.append(asyncio.TimerHandle(self._loop.time() + delay, callback, (), self._loop))
        return self.set[-1]

    def ring(self):
        """Ring all that are set."""
        due, self.set = [timer for timer in self.set if not timer.cancelled()], []
        for timer in due:
            timer._run()


@asynccontextmanager
async def served(app, timers=None):
    """Serve an app, and give the connections of the server and a client's socket."""
    config = uvicorn.Config(app, timeout_keep_alive=SECONDS, log_config=None, lifespan="off", ws="none")
    state = ServerState()
    protocol = with_deadlines(read_timeout=SECONDS, write_timeout=SECONDS)
    loop = asyncio.get_running_loop()
    with socket.socket() as listening, socket.socket() as client:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listening.bind(("127.0.0.1", 0))
        server = await loop.create_server(lambda: protocol(config, state, {}, timers), sock=listening)
        client.setblocking(False)
        await loop.sock_connect(client, listening.getsockname())
        yield state.connections, client
        server.close()


async def until(condition):
    """Wait until a condition holds; the test's time limit ends it."""
    while not condition():  # noqa: ASYNC110 - the condition is the server's, which rings no bell
        await asyncio.sleep(0.01)


async def everything(client):
    """Read until the server closes."""
    loop, received = asyncio.get_running_loop(), b""
    while part := await loop.sock_recv(client, 1 << 16):
        received += part
    return received


def test_an_empty_line_behind_an_answer_keeps_no_connection_open():
    """What is no request does not end the wait for one: the connection is closed in time."""

    async def scenario():
        loop = asyncio.get_running_loop()
        async with served(App()) as (_, client):
            await loop.sock_sendall(client, GET)
            assert (await loop.sock_recv(client, 1000)).endswith(b"\r\n\r\nxx")
            await loop.sock_sendall(client, b"\r\n")
            assert await everything(client) == b""

    uvloop.run(scenario())


def test_a_body_that_ends_after_its_answer_keeps_no_connection_open():
    """The wait for the next request begins when the one that was answered early has ended."""

    async def scenario():
        loop = asyncio.get_running_loop()
        async with served(App()) as (_, client):
            await loop.sock_sendall(client, b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n")
            assert (await loop.sock_recv(client, 1000)).endswith(b"\r\n\r\nxx")
            await loop.sock_sendall(client, b"body")
            assert await everything(client) == b""

    uvloop.run(scenario())


@pytest.mark.parametrize("asked", [GET, CLOSING], ids=["kept", "closing"])
def test_a_client_that_leaves_the_end_of_an_answer_is_dropped(asked):
    """Where there is no more to write than fits into the buffers, too, who does not read loses the connection."""

    async def scenario():
        loop = asyncio.get_running_loop()
        async with served(App(LEFT_OVER)) as (connections, client):
            await loop.sock_sendall(client, asked)
            await until(lambda: connections)
            (connection,) = connections
            await until(lambda: connection.transport.get_write_buffer_size())
            assert not connection.flow.write_paused
            await until(lambda: not connections)

    uvloop.run(scenario())


@pytest.mark.parametrize("extra", [b"", b"connection: upgrade\r\nupgrade: other\r\n"], ids=["plain", "upgrading"])
def test_requests_ahead_of_their_answers_are_bounded(extra):
    """As many as may wait are answered in turn, behind them stands one refusal, and the connection ends."""

    async def scenario():
        loop, app = asyncio.get_running_loop(), App()
        app.go.clear()
        one = b"GET / HTTP/1.1\r\nhost: x\r\n" + extra + b"\r\n"
        async with served(app) as (connections, client):
            sending = loop.create_task(loop.sock_sendall(client, one * (5 * MOST_UNANSWERED)))
            await until(lambda: app.asked)
            (connection,) = connections
            await until(lambda: connection.unanswered == MOST_UNANSWERED)
            app.go.set()
            received = await everything(client)
            await asyncio.gather(sending, return_exceptions=True)
        answers = received.split(b"HTTP/1.1 ")[1:]
        assert [answer[:3] for answer in answers] == [b"200"] * MOST_UNANSWERED + [b"429"]
        assert b'"code":"too_many_requests"' in answers[-1]
        assert b"connection: close" in answers[-1]
        assert app.asked == MOST_UNANSWERED

    uvloop.run(scenario())


async def taken(client, count):
    """Take so many bytes of an answer."""
    loop = asyncio.get_running_loop()
    while count > 0:
        part = await loop.sock_recv(client, min(count, 1 << 16))
        assert part, f"{count} bytes did not come"
        count -= len(part)


def test_a_client_that_takes_a_large_answer_steadily_gets_all_of_it():
    """However many times `write_timeout` that takes."""

    async def scenario():
        timers, steps, step = TimersByHand(), 8, 500_000
        async with served(App(steps * step), timers) as (connections, client):
            await asyncio.get_running_loop().sock_sendall(client, GET)
            await until(lambda: any(connection.flow.write_paused for connection in connections))
            for _ in range(steps - 1):
                await taken(client, step)
                timers.ring()
            await taken(client, step)

    asyncio.run(scenario())


def test_a_client_that_stops_taking_a_large_answer_is_dropped():
    """Also when it took much of it before."""

    async def scenario():
        timers = TimersByHand()
        async with served(App(4_000_000), timers) as (connections, client):
            await asyncio.get_running_loop().sock_sendall(client, GET)
            await until(lambda: any(connection.flow.write_paused for connection in connections))
            await taken(client, 1_000_000)
            timers.ring()
            assert connections

            def dropped():
                timers.ring()  # what the kernel still takes by itself has an end
                return not connections

            await until(dropped)

    asyncio.run(scenario())
